"""A folder to a repository on the Hugging Face Hub, through its client, and one line where that can't be."""

from pathlib import Path

from dfine_jax.errors import InputError


def check_repository(name: str) -> None:
    """``InputError`` unless a name is one that a repository on the Hub may have, with its owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError:
        name = ""
    if "/" not in name:
        raise InputError("that is no name for a repository on the Hub: give USER/NAME, of letters, digits, - _ and .")


def upload(
    folder: Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    message: str = "Upload model",
    token: str | None = None,
) -> str:
    """Sends all files of a folder as one commit, and gives the address of the repository.

    The repository is made where it isn't there, and the branch ``revision``, too. What else lies in it stays.
    ``InputError`` in one line where nobody is logged in, the Hub refuses, or it can't be reached.
    """
    from huggingface_hub import HfApi, constants, errors, get_token

    token = token or get_token()
    if token is None:
        raise InputError("nobody is logged in to the Hub: run `hf auth login`, set HF_TOKEN, or give --token")
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{repository} was not sent: HF_HUB_OFFLINE is set, so nothing is sent")
    api = HfApi(token=token)
    of_the_network = errors.HfHubHTTPError.__bases__[0]  # the HTTP library's, which is another in other releases
    try:
        made = api.create_repo(repository, private=private or None, exist_ok=True)
        if revision is not None:
            api.create_branch(repository, branch=revision, exist_ok=True)
        api.upload_folder(folder_path=folder, repo_id=repository, revision=revision, commit_message=message)
        return str(made)
    except errors.HfHubHTTPError as error:
        problem = _refused(error)
    except (of_the_network, OSError, RuntimeError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        problem = f"the Hub can't be reached at {constants.ENDPOINT} ({said:.200})"
    except (LookupError, ValueError, TypeError):
        problem = f"what answers at {constants.ENDPOINT} is not the Hub"
    raise InputError(f"{repository} was not sent: {problem}")


def _refused(error: Exception) -> str:
    """What the Hub meant by its answer."""
    status = getattr(error.response, "status_code", None)
    said = getattr(error, "server_message", None) or (str(error).splitlines() or [""])[0]
    said = " ".join(said.split())[:200]
    if status == 401:
        return f"the Hub does not know the token: run `hf auth login` again, or give another with --token ({said})"
    if status == 403:
        return f"the token has no right to write there: give one that has, with --token ({said})"
    if status == 404:
        return f"the Hub has no such user, organisation or repository ({said})"
    return f"the Hub answered {status} ({said})"

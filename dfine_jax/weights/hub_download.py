"""Files of a model on the Hugging Face Hub, through its client: cache, ``HF_HUB_OFFLINE`` and progress bars are its."""

from pathlib import Path

from dfine_jax.weights.fill import CheckpointError

FILES = [
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
]
OTHERS = [
    "*.safetensors",
    "*.safetensors.index*.json",
    "pytorch_model*.bin",
    "*.bin.index.json",
    "*.pth",
    "*.pt",
    "*.ckpt",
]
"""Weights by other names, for repositories that have none by the usual ones; of the top folder only."""


def download(repo: str, *, revision: str | None = None, token: str | None = None) -> Path:
    """The folder in the cache with the model's files; ``CheckpointError`` in one line where it can't be had."""
    from huggingface_hub import errors, snapshot_download  # not for those who have their model already

    at = f" at revision {revision}" if revision else ""
    options = dict(revision=revision, token=token)
    try:
        folder = Path(snapshot_download(repo, allow_patterns=FILES, **options))
        if any(folder.glob("model*.safetensors")):
            return folder
        return Path(snapshot_download(repo, allow_patterns=[*FILES, *OTHERS], ignore_patterns=["*/*"], **options))
    except errors.HFValidationError:
        problem = "that is no name of a Hub repository (owner/name)"
    except errors.GatedRepoError:
        problem = f"access has to be asked for at https://huggingface.co/{repo}, then log in or give a token"
    except errors.RevisionNotFoundError:
        problem = "the Hub knows the repository, but not the revision"
    except errors.RepositoryNotFoundError:
        problem = "the Hub has no such repository, or it is private and needs a token"
    except errors.LocalEntryNotFoundError:
        problem = (
            "not in the local cache, and the Hub can't be reached (no network, or HF_HUB_OFFLINE is set): connect "
            "once, or name a folder or file that holds the weights"
        )
    except (errors.HfHubHTTPError, OSError, RuntimeError) as error:
        problem = f"the download failed ({(str(error).splitlines() or [''])[0]:.200})"
    raise CheckpointError(f"{repo}{at}: {problem}")

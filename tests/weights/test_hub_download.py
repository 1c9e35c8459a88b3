"""Downloads from the Hub: what is asked for, and one line where it can't be had. No network is needed."""

from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import errors

from dfine_jax.weights.fill import CheckpointError
from dfine_jax.weights.hub_download import download


@pytest.fixture
def client(monkeypatch):
    """Stands for huggingface_hub: notes what is asked for, and gives or raises what a test puts in."""

    class Client:
        asked = ()
        answer = "cache/snapshot"

        def __call__(self, repo, **options):
            self.asked = (*self.asked, (repo, options))
            if isinstance(self.answer, BaseException):
                raise self.answer
            return self.answer

    client = Client()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", client)
    return client


def made(kind, text=""):
    """An exception of the client without the HTTP response that it is made from."""
    error = kind.__new__(kind, text)
    error.args = (text,)
    return error


def test_only_what_is_needed_is_asked_for(client, tmp_path):
    client.answer = str(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert download("owner/name", revision="v1", token="secret") == tmp_path
    ((repo, options),) = client.asked
    assert repo == "owner/name"
    assert (options["revision"], options["token"]) == ("v1", "secret")
    assert set(options["allow_patterns"]) == {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "model-*-of-*.safetensors",
    }


def test_weights_by_other_names_are_asked_for_where_there_are_none_by_the_usual(client):
    assert download("owner/name", revision="v1") == Path("cache/snapshot")
    _, (repo, options) = client.asked
    assert (repo, options["revision"], options["ignore_patterns"]) == ("owner/name", "v1", ["*/*"])
    assert {"config.json", "*.safetensors", "pytorch_model*.bin", "*.pth"} <= set(options["allow_patterns"])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.LocalEntryNotFoundError("x"), "not in the local cache, and the Hub can't be reached"),
        (made(errors.RepositoryNotFoundError), "the Hub has no such repository, or it is private"),
        (made(errors.GatedRepoError), "access has to be asked for at https://huggingface.co/owner/name"),
        (made(errors.RevisionNotFoundError), "the Hub knows the repository, but not the revision"),
        (errors.HFValidationError("x"), "that is no name of a Hub repository"),
        (OSError("disk full\nand more"), r"the download failed \(disk full\)"),
        (RuntimeError(), r"the download failed \(\)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_failures_in_one_line(client, error, words):
    client.answer = error
    with pytest.raises(CheckpointError, match=f"^owner/name at revision v1: {words}") as caught:
        download("owner/name", revision="v1")
    assert "\n" not in str(caught.value)


def test_offline_without_a_cache(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"^owner/name: not in the local cache, and the Hub can't be reached"):
        download("owner/name")

"""``dfine push``: a model to the Hugging Face Hub, in the layout that transformers loads as well."""

import os
import tempfile
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from dfine_jax.cli.options import say_remarks
from dfine_jax.display import say
from dfine_jax.errors import InputError
from dfine_jax.hub_config import require_expressible
from dfine_jax.plain_file import plain_size
from dfine_jax.pretrained import open_pretrained
from dfine_jax.weights.atomic import check_target
from dfine_jax.weights.folder import CARD, StoredModel
from dfine_jax.weights.hub_card import hub_card
from dfine_jax.weights.hub_layout import save_hub_folder
from dfine_jax.weights.hub_upload import check_repository, upload

LARGEST_CARD = 2**20
"""Bytes of a page; those that trainings write have some thousand."""


def run(
    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")],
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")],
    /,
    private: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    half: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    license: str | None = None,
    message: str = "Upload model",
    revision: str | None = None,
    token: str | None = None,
    dry_run: Annotated[tuple[Path, ...] | None, tyro.conf.arg(metavar="[FOLDER]")] = None,
) -> int:
    """Send a model to the Hugging Face Hub.

    What is sent is what transformers writes: config.json, model.safetensors and preprocessor_config.json, so that both
    dfine and transformers load the model by its name; with thresholds.json where there is one, and README.md, the page
    that the Hub shows. The repository is made where it isn't there. What else lies in it stays.

    For example, what a training made, after a look at what would be sent:

    dfine push runs/cells/model anna/blood-cells --dry-run look

    dfine push runs/cells/model anna/blood-cells --private

    dfine detect cats.jpg --model anna/blood-cells

    You have to be logged in (`hf auth login`), with a token that may write.

    Args:
        model: A folder that dfine train or dfine convert made; any other model that --model takes will do.
        repository: Where to on the Hub.
        private: Nobody else sees the repository, if it is made now.
        half: Store matrices and kernels in half precision: half the size, rounded to 11 bits.
        license: Licence for the page of a model that has none yet, as the Hub spells it (apache-2.0, mit).
        message: What the Hub's history says about it.
        revision: Branch to send to, which is made where it isn't there; the main one if not given.
        token: Access token for the Hub, where you aren't logged in.
        dry_run: Send nothing, and write what would be sent into this folder (one of the repository's name if none is
            given).
    """
    check_repository(repository)
    if dry_run is not None and len(dry_run) > 1:
        raise InputError(f"--dry-run takes one folder, not {len(dry_run)}: {', '.join(map(str, dry_run))}")
    stored = open_pretrained(model)
    say_remarks(stored)
    require_expressible(stored.config)
    console = Console()
    if dry_run is not None:
        folder = Path(os.path.expanduser(dry_run[0] if dry_run else repository.rpartition("/")[2]))
        _write(stored, folder, repository, half, license)
        for path in sorted(folder.iterdir()):
            say(console, f"{path}  {path.stat().st_size:,} bytes")
        say(console, f"nothing was sent; without --dry-run this goes to {repository}")
        return 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        _write(stored, folder, repository, half, license)
        address = upload(folder, repository, private=private, revision=revision, message=message, token=token)
    say(console, f"{stored.source} is at {address}; dfine detect PICTURE --model {repository} takes it")
    return 0


def _write(stored: StoredModel, folder: Path, repository: str, half: bool, licence: str | None) -> None:
    """Writes what is sent: transformers' layout, thresholds and the page."""
    check_target(folder, replace=False)
    card = hub_card(_written(stored), stored.config, stored.preprocessing, repository, licence)
    arrays = stored.arrays()
    options = dict(half=half, described_by=stored.place)
    save_hub_folder(folder, stored.config, stored.preprocessing, arrays, card=card, **options)


def _written(stored: StoredModel) -> str | None:
    """The page that lies in a model's folder."""
    path = None if stored.place is None else stored.place / CARD
    if path is None or not path.is_file():
        return None
    if plain_size(path) > LARGEST_CARD:
        raise InputError(f"{path} is too large for a page, which may have {LARGEST_CARD:,} bytes")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} can't be read as UTF-8 ({error})") from None

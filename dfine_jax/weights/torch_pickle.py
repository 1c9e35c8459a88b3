"""The pickle in a PyTorch checkpoint, looked at before PyTorch reads it: what it names, and how much it claims.

A pickle may name any function to be called. Here it may name those that put tensors together, which PyTorch's own
restricted reader calls, and plain data beside the weights (numbers of NumPy, settings, dates, paths), for which
something empty is put. Anything else is refused by name, unread.
"""

import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from dfine_jax.weights.file_type import FileType
from dfine_jax.weights.fill import CheckpointError

MOST_STEPS = 1_000_000
"""Of a pickle's program; a training checkpoint of the largest model has 200 thousand."""
MOST_INFLATED = 4
"""How many times the size of the file its parts may have, if they are compressed."""

TOO_NEW = 4
"""The first protocol of pickles whose names PyTorch's restricted reader can't follow; it writes 2."""

_MAGIC = 0x1950A86A20F9469CFC6C.to_bytes(10, "little")
"""What PyTorch's files before 1.6 begin with, as a pickled number."""

_TENSORS = re.compile(
    r"collections (OrderedDict|Counter)|_codecs encode|(builtins|__builtin__) (set|complex)"
    r"|torch\._utils _rebuild_(tensor|tensor_v2|tensor_v3|parameter|parameter_with_state)"
    r"|torch\._tensor _rebuild_from_type_v2|torch\.nn\.parameter Parameter|torch (Size|device|Tensor)"
    r"|torch(\.cuda|\.storage)? \w+Storage|torch (b?float|double|half|u?int|long|short|bool|complex)\w*"
    r"|torch\.serialization _get_layout"
)
_HARMLESS = re.compile(
    r"numpy(\.\w+)* \w+|argparse Namespace|types SimpleNamespace|typing \w+|omegaconf(\.\w+)* \w+"
    r"|datetime (datetime|date|time|timedelta|timezone)|zoneinfo ZoneInfo|uuid (UUID|SafeUUID)"
    r"|pathlib(\._local)? (Pure)?(Posix|Windows)?Path|decimal Decimal|fractions Fraction"
    r"|(lightning|lightning_fabric|pytorch_lightning)(\.\w+)* AttributeDict|collections (defaultdict|deque)"
    r"|(builtins|__builtin__) (object|dict|list|tuple|int|float|str|bool|bytes|frozenset|slice|range)"
    r"|(copyreg|copy_reg) _reconstructor"
)
_WAY_OUT = "save the tensors alone, torch.save(model.state_dict(), 'weights.pth')"


class Empty:
    """Stands for plain data beside the weights: takes whatever it is made of, and keeps nothing."""

    def __new__(cls, *_: Any) -> "Empty":
        return object.__new__(cls)

    def __init__(self, *_: Any) -> None:
        """Nothing of it is kept."""

    def __setstate__(self, state: object) -> None:
        """Nothing of it is kept."""


class _EmptyDict:
    def __new__(cls, *_: Any) -> dict:
        return {}


class _EmptyList:
    def __new__(cls, *_: Any) -> list:
        return []


_FILLED = {
    "dict": _EmptyDict,
    "defaultdict": _EmptyDict,
    "AttributeDict": _EmptyDict,
    "list": _EmptyList,
    "deque": _EmptyList,
}
"""By the last part of their names, what stands for data that PyTorch's reader fills after it was made."""


def stand_ins(path: Path, file_type: FileType) -> list[tuple[type, str]]:
    """What ``torch.serialization.safe_globals`` takes, so that plain data beside the weights is passed over.

    ``CheckpointError`` in one line where the file claims more than it can hold, or names what might run code.
    """
    try:
        names = _names(path, file_type)
    except CheckpointError:
        raise
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError, LookupError, RuntimeError) as error:
        raise damaged(path, error) from None
    known = (name for name in names if _TENSORS.fullmatch(name) or _HARMLESS.fullmatch(name))
    if refused := sorted(name.replace(" ", ".") for name in names - set(known)):
        some = f"{', '.join(refused[:3])}{', ...' if len(refused) > 3 else ''}"
        raise CheckpointError(
            f"{path} holds Python objects beside tensors ({some:.200}); they are not loaded, because that could run "
            f"any code: {_WAY_OUT}, where the checkpoint was made"
        )
    plain = [_python_3(name) for name in sorted(names) if not _TENSORS.fullmatch(name)]
    return [(_FILLED.get(name.rpartition(".")[2], Empty), name) for name in plain]


def damaged(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that can't be read to its end."""
    said = (str(error).splitlines() or [""])[0].split(". ")[0].strip()
    kind = type(error).__name__
    return CheckpointError(f"{path} is cut short, damaged, or no PyTorch checkpoint ({kind}: {said:.100})")


def is_compressed(path: Path) -> bool:
    """Whether parts of a zip are compressed, as PyTorch leaves none: then they can't be mapped into memory."""
    with zipfile.ZipFile(path) as archive:
        return any(part.compress_type != zipfile.ZIP_STORED for part in archive.infolist())


def _names(path: Path, file_type: FileType) -> set[str]:
    """All that the pickles name to be called, each as "module name"."""
    if file_type is FileType.TORCH_PICKLE:
        with path.open("rb") as file:
            names = set(_named(path, file))
            if not names and _starts_with_magic(path):
                for _ in range(3):  # a version, what system it was, and the checkpoint
                    names.update(_named(path, file))
            elif not names:
                raise CheckpointError(f"{path} is a pickle, but not PyTorch's; it is not read: {_WAY_OUT}")
            return names
    with zipfile.ZipFile(path) as archive:
        parts = archive.infolist()
        claimed, size = sum(part.file_size for part in parts), path.stat().st_size
        if claimed > MOST_INFLATED * size:
            raise CheckpointError(f"{path} claims to hold {claimed:,} bytes in a file of {size:,}: it is not read")
        pickles = [part for part in parts if part.filename.endswith("/data.pkl") or part.filename == "data.pkl"]
        if any(part.filename.endswith("/constants.pkl") for part in parts):
            raise CheckpointError(f"{path} is a program of TorchScript, not weights: {_WAY_OUT}")
        if len(pickles) != 1:
            held = ", ".join(part.filename for part in parts[:3])
            raise CheckpointError(f"{path} is a zip archive without PyTorch's data.pkl ({held:.100}): unpack it")
        with archive.open(pickles[0]) as file:
            return set(_named(path, file))


def _starts_with_magic(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(14).endswith(_MAGIC)


def _named(path: Path, file: IO[bytes]) -> Iterator[str]:
    """Goes through the program of one pickle without running it."""
    for step, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if step > MOST_STEPS:
            raise CheckpointError(f"{path} holds a pickle of more than {MOST_STEPS:,} steps: it is not read")
        if operation.name == "PROTO" and argument >= TOO_NEW:
            raise CheckpointError(
                f"{path} was saved with pickle_protocol={argument}, which PyTorch's safe reader does not know: "
                f"{_WAY_OUT}, with its own protocol, where the checkpoint was made"
            )
        if operation.name == "GLOBAL":
            yield argument
        elif operation.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
            yield operation.name  # of protocols that PyTorch doesn't write


def _python_3(name: str) -> str:
    """As PyTorch's reader calls it, which knows what Python 2's modules are called now."""
    module, _, name = name.partition(" ")
    return f"{ {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}.get(module, module) }.{name}"

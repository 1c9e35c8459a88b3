"""What a file of weights holds, told from its first bytes rather than from its name."""

from enum import Enum
from pathlib import Path

from dfine_jax.plain_file import open_plain, plain_size
from dfine_jax.weights.fill import CheckpointError

TORCH_ENDINGS = (".pth", ".pt", ".ckpt", ".bin", ".pth.tar", ".tar")
"""Endings that PyTorch's checkpoints have; a file is taken for one by these only where its first bytes don't tell."""
PADDLE_ENDING = ".pdparams"
"""Ending of PaddlePaddle's weights, which are a pickle as PyTorch's are."""
WEIGHTS_ENDINGS = (*TORCH_ENDINGS, PADDLE_ENDING, ".safetensors")


class FileType(Enum):
    """Kinds of files that can be read."""

    SAFETENSORS = "safetensors"
    TORCH_ZIP = "PyTorch's"
    TORCH_PICKLE = "PyTorch's, before 1.6"


_FOREIGN = (
    (b"version https://git-lfs", "a pointer of Git LFS, not the weights: run `git lfs pull`"),
    (b"\x1f\x8b", "compressed with gzip: unpack it with gunzip"),
    (b"BZh", "compressed with bzip2: unpack it with bunzip2"),
    (b"\xfd7zXZ\x00", "compressed with xz: unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd: unpack it with unzstd"),
    (b"\x89HDF\r\n", "an HDF5 file, as Keras writes one: no rule reads its weights"),
    (b"\x93NUMPY", "a NumPy array, not a model"),
)


def file_type_of(path: Path) -> FileType:
    """What a file holds; ``CheckpointError`` in one line, with what to do, where it can't be read as weights."""
    if plain_size(path, CheckpointError) == 0:
        raise CheckpointError(f"{path} is empty")
    try:
        with open_plain(path) as file:
            head = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read ({error.strerror or error})") from None
    for start, kind in _FOREIGN:
        if head.startswith(start):
            raise CheckpointError(f"{path} is {kind}")
    if head[257:262] == b"ustar":
        raise CheckpointError(f"{path} is a tar archive: unpack it, and give what is in it")
    if head.startswith(b"PK\x03\x04"):
        return FileType.TORCH_ZIP
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return FileType.TORCH_PICKLE
    if head[8:9] == b"{" or path.name.endswith(".safetensors"):
        return FileType.SAFETENSORS
    if path.name.endswith(TORCH_ENDINGS):
        raise CheckpointError(f"{path} is cut short, damaged, or no PyTorch checkpoint (it begins with {head[:8]!r})")
    raise CheckpointError(f"{path}: expected a folder, a .safetensors file or a .pth")

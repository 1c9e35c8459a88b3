"""How much memory this process can still have."""

from collections.abc import Iterator
from pathlib import Path

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_NO_LIMIT = 2**60
"""How version 1 of control groups says that there is none: the largest multiple of a page."""


def host_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Gives the bytes that this process can still allocate; None where the system doesn't tell.

    It is the least of what the machine has left, of what each control group (a container's, a batch job's) that this
    process is in has, and of the limit of its address space (``ulimit -v``).
    """
    machine = _fields(proc / "meminfo").get("MemAvailable")
    found = [None if machine is None else machine * 1024, _left_of_address_space(proc)]
    found += [_left_of_group(folder) for folder in _control_groups(proc, groups)]
    known = [bytes_left for bytes_left in found if bytes_left is not None]
    return max(0, min(known)) if known else None


def as_text(size: int) -> str:
    """Spells a number of bytes, such as ``3.2 GiB``."""
    name, unit = next((name, unit) for name, unit in reversed(UNITS.items()) if size >= unit or unit == 1)
    return f"{size / unit:.1f} {name}iB" if name else f"{size} bytes"


def _fields(path: Path) -> dict[str, int]:
    """The numbers of a file of the system's with a name and a number a line."""
    fields = {}
    for line in _text(path).splitlines():
        name, *values = line.replace(":", " ").split()
        if values and values[0].isdigit():
            fields[name] = int(values[0])
    return fields


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace")
    except OSError:
        return ""


def _control_groups(proc: Path, groups: Path) -> Iterator[Path]:
    """Folders of all groups that this process is in, of both versions; a container sees its own at the top."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, kinds, name = line.split(":", 2)
        if not kinds or "memory" in kinds.split(","):
            top = groups / kinds if kinds else groups
            here = top / name.strip("/")
            yield from (folder for folder in (here, *here.parents) if folder.is_relative_to(top))


def _left_of_group(folder: Path) -> int | None:
    for most, used, prefix in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        limit, usage = _text(folder / most).strip(), _text(folder / used).strip()
        if limit.isdigit() and usage.isdigit() and int(limit) < _NO_LIMIT:
            statistics = _fields(folder / "memory.stat")
            files = sum(statistics.get(f"{prefix}{kind}_file", 0) for kind in ("active", "inactive"))
            return int(limit) - int(usage) + files  # pages of files are given up when memory is short
    return None


def _left_of_address_space(proc: Path) -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _fields(proc / "self" / "status").get("VmSize")
    return None if limit == resource.RLIM_INFINITY or used is None else limit - used * 1024

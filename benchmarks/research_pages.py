"""Run the code of the pages in docs/research and write what it prints, and its pictures, into them.

    $ python -m benchmarks.research_pages                  # all pages
    $ python -m benchmarks.research_pages saliency patch   # two of them

Each page runs in a process of its own in an empty folder. Tests run the same code and compare what it prints.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parents[1] / "docs" / "research"
CODE = re.compile(r"^```python\n(.*?)^```\n\nIt prints:\n\n```text\n(.*?)^```", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"!\[[^\]]*\]\((\S+)\)")


class Page(NamedTuple):
    """A page of which the code runs by itself."""

    file: Path
    code: str
    printed: str
    """What the page says that it prints."""
    pictures: tuple[str, ...]
    """Files that the code writes and the page shows."""


def pages() -> dict[str, Page]:
    """Finds the pages by name."""
    found = {}
    for file in sorted(FOLDER.glob("*.md")):
        text = file.read_text("utf-8")
        if match := CODE.search(text):
            found[file.stem] = Page(file, match[1], match[2], tuple(PICTURE.findall(text)))
    return found


def run(page: Page, folder: Path) -> str:
    """Runs a page's code in a folder and gives what it prints; ``RuntimeError`` with the trace where it fails."""
    ended = subprocess.run([sys.executable, "-c", page.code], cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{page.file.name}: {ended.stderr[-3000:]}")
    return ended.stdout


def main() -> None:
    """Runs the pages named on the command line and writes what they print into them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", help="pages, without the ending; all if none is given")
    known = pages()
    names = parser.parse_args().names or list(known)
    if unknown := [name for name in names if name not in known]:
        parser.error(f"no page {', '.join(unknown)}: there are {', '.join(known)}")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            printed = run(known[name], Path(folder))
            print(f"== {name} ({time.perf_counter() - start:.0f} s)\n{printed}", flush=True)
            for picture in known[name].pictures:
                shutil.copy(Path(folder) / picture, FOLDER / picture)
        text = known[name].file.read_text("utf-8")
        start, end = CODE.search(text).span(2)
        known[name].file.write_text(text[:start] + printed + text[end:], "utf-8")


if __name__ == "__main__":
    main()

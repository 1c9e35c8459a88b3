"""The report of a run, as JSON and as tables in Markdown; both files are whole at any time."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.accelerator.scale import Row
from dfine_jax.whole_files import write_whole

MEANS_NOTHING = (
    "**No accelerator was found: this ran at the smallest size on a CPU, to see that every part runs. "
    "The numbers mean nothing.**"
)


class Report:
    """Parts with their rows, written to two files at every change."""

    def __init__(self, folder: Path):
        self.files = (folder / "accelerator.json", folder / "accelerator.md")
        self.about: Row = {}
        self.parts: list[Row] = []

    def begin(self, name: str, title: str) -> Row:
        """Adds a part, whose ``rows`` and ``state`` the caller fills; ``write`` after each change."""
        part = {"name": name, "title": title, "state": "running", "seconds": 0.0, "rows": []}
        self.parts.append(part)
        return part

    def rows(self) -> dict[str, list[Row]]:
        """Those of all parts so far."""
        return {part["name"]: part["rows"] for part in self.parts}

    def write(self) -> None:
        """Writes both files."""
        content = (json.dumps({"about": self.about, "parts": self.parts}, indent=1) + "\n", self.markdown())
        for path, text in zip(self.files, content, strict=True):
            write_whole(path, text.encode())

    def markdown(self) -> str:
        """The report for people."""
        blocks = ["# D-FINE on this accelerator"]
        if self.about:
            if not self.about["meaningful"]:
                blocks.append(MEANS_NOTHING)
            blocks.append("\n".join(f"- {key}: {value}" for key, value in self.about.items() if key != "meaningful"))
        for part in self.parts:
            blocks.append(f"## {part['title']}")
            state = "" if part["state"] == "done" else f"**{part['state']}**; "
            blocks.append(f"{state}{part['seconds']:.0f} s (part `{part['name']}`)")
            if part["rows"]:
                blocks.append(table(part["rows"]))
        return "\n\n".join(blocks) + "\n"


def table(rows: Iterable[Row]) -> str:
    """Rows in Markdown, with a column for every name that one of them has."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, ["---"] * len(columns), *([shown(row.get(name)) for name in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def shown(value: Any) -> str:
    """A cell: nothing for None, three digits that count of a fraction, and no character that would end the cell."""
    if value is None:
        return ""
    if isinstance(value, float):
        if not math.isfinite(value):
            return str(value)
        return f"{value:.1e}" if value and abs(value) < 1e-3 else f"{value:,.{max(0, 2 - _digits(value))}f}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _digits(value: float) -> int:
    return math.floor(math.log10(abs(value))) if value else 0

"""README's commands, as its readers type them."""

import re
import shlex
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def commands() -> list[str]:
    """Every ``$ dfine ...`` of README's console blocks, in its order, each once and without its comment."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```", README.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ ") and "dfine " in line:
                words = shlex.split(line[2:], comments=True)
                if "&&" in words:  # what is installed first has been
                    words = words[words.index("&&") + 1 :]
                if words[0] == "dfine":
                    found.append(shlex.join(words))
    return list(dict.fromkeys(found))

"""Write docs/api.md from the docstrings of the names that ``dfine_jax`` has at top level.

    $ python tests/support/make_api_page.py

It reads source text alone, so that every Python writes the same page. A test compares the page with it.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import dfine_jax

ROOT = Path(dfine_jax.__file__).parents[1]
PAGE = ROOT / "docs" / "api.md"
ALSO = {
    "images_of": "dfine_jax.research",
    "labelled_images": "dfine_jax.research",
    "training_loss": "dfine_jax.research",
}
"""What isn't at top level but belongs on the page."""
HEAD = """# What the package offers in Python

All of it is imported from `dfine_jax`, what research starts with from `dfine_jax.research`. This page is made
from docstrings (`python tests/support/make_api_page.py`).
"""
SECTION = re.compile(r"(Args|Returns|Raises|Yields):")
ENTRY = re.compile(r" {4}(\*{0,2}\w+): (.*)")


def page() -> str:
    """Gives the page's text."""
    homes = {name: dfine_jax._HOMES[name] for name in dfine_jax.__all__} | ALSO
    return HEAD + "".join("\n" + "".join(_described(name, homes[name])) for name in sorted(homes, key=str.lower))


def _described(name: str, home: str) -> Iterator[str]:
    """The heading, the signature, the text, and what a class has."""
    file = ROOT.joinpath(*home.split(".")).with_suffix(".py")
    tree = ast.parse(file.read_text("utf-8"))
    node = next(each for each in tree.body if getattr(each, "name", None) == name)
    link = f"../{file.relative_to(ROOT)}"
    yield f"## {name}\n\n"
    if isinstance(node, ast.FunctionDef):
        yield _code(_signature(node))
    yield f"{_prose(ast.get_docstring(node))}\n\n"
    if isinstance(node, ast.ClassDef):
        yield from _members(node)
    yield f"<sub>[{home}]({link})</sub>\n"


def _members(node: ast.ClassDef) -> Iterator[str]:
    """How it is made, its public fields and methods."""
    fields = list(_fields(node))
    if fields:
        yield "".join(fields) + "\n"
    for method in node.body:
        if not isinstance(method, ast.FunctionDef) or (method.name.startswith("_") and method.name not in SPOKEN):
            continue
        text = ast.get_docstring(method)
        if method.name.startswith("_") and text is None:
            continue
        kinds = {ast.unparse(each).split(".")[-1] for each in method.decorator_list}
        if kinds & {"property", "cached_property"}:
            yield f"**`{method.name}`**: {_prose(text)}\n\n"
            continue
        owner = node.name if "classmethod" in kinds else ""
        yield _code(_signature(method, called=SPOKEN.get(method.name, f"{owner}.{method.name}").format(node.name)))
        if text:
            yield f"{_prose(text)}\n\n"


SPOKEN = {"__init__": "{}", "__call__": "{}(...)"}
"""How methods without a name to call them by are written."""


def _fields(node: ast.ClassDef) -> Iterator[str]:
    """A line for each attribute of a named tuple or a data class, with the text below it."""
    for field, after in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or field.target.id.startswith("_"):
            continue
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        text = f": {_one_line(inspect.cleandoc(after.value.value))}" if is_text else ""
        default = f" = {ast.unparse(field.value)}" if field.value is not None else ""
        yield f"- `{field.target.id}: {_plain(ast.unparse(field.annotation))}{default}`{text}\n"


def _signature(node: ast.FunctionDef, called: str | None = None) -> str:
    """As it is called: without ``self`` and ``cls``, a line for each parameter where one line is too short."""
    arguments = node.args
    if arguments.args and arguments.args[0].arg in ("self", "cls"):
        arguments.args.pop(0)
    plain = _plain(ast.unparse(arguments))
    gives = f" -> {_plain(ast.unparse(node.returns))}" if node.returns is not None else ""
    whole = f"{called or node.name}({plain}){gives}"
    if len(whole) <= 100:
        return whole
    parts = re.split(r", (?=\*|\w+[:=])(?![^\[]*\])", plain)
    return f"{called or node.name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){gives}"


def _plain(annotation: str) -> str:
    """An annotation without quotes around the name of a class."""
    return re.sub(r"'([A-Z]\w+[a-z])'", r"\1", annotation)


def _code(text: str) -> str:
    return f"```python\n{text}\n```\n\n"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _prose(text: str) -> str:
    """A docstring as Markdown: parameters are a list."""
    lines: list[str] = []
    for line in text.replace("``", "`").splitlines():
        if SECTION.fullmatch(line):
            lines += [f"{line[:-1]}:", ""]
        elif entry := ENTRY.fullmatch(line):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        else:
            lines.append("  " + line.strip() if line.startswith("    ") else line)
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")

import io

import pytest
from rich.console import Console

from dfine_jax.display import printable, verbatim


@pytest.mark.parametrize("text", ["cells/a.png", "décran [final].jpg", "圆 円", "👩\u200d🔬", "a  b", ""])
def test_text_that_can_be_shown_stays_as_it_is(text):
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\nb\r\tc", "a\\nb\\r\\tc"),
        ("gpj.\u202eexe", "gpj.\\u202eexe"),
        ("a\u2028b\u2066c\ufeffd", "a\\u2028b\\u2066c\\ufeffd"),
        ("a\x9bb", "a\\x9bb"),
        (b"caf\xe9.png".decode("utf-8", "surrogateescape"), "caf\\xe9.png"),
        ("lone \ud83d", "lone \\ud83d"),
        ("tag \U000e0041", "tag \\U000e0041"),
    ],
)
def test_what_a_terminal_would_act_upon_is_spelled_out(text, shown):
    assert printable(text) == shown
    printable(text).encode()


def test_line_breaks_may_stay():
    assert printable("a\n  b\x1b", lines=True) == "a\n  b\\x1b"


@pytest.mark.parametrize("name", ["clip [final].jpg", "a [bold red] b.jpg", "[/x]", "\\[x]", "[link=x]y", "end\\"])
def test_brackets_are_shown_whole(name):
    file = io.StringIO()
    Console(file=file, width=200).print(verbatim(name, "bold"))
    assert file.getvalue() == f"{name}\n"

"""Encodings of text files, and files that are none."""

import os

import pytest

from dfine_jax.data.texts import decode_xml, read_paths, read_text, rows

TEXT = "0 0.5 0.5\nÄ 圆\n"


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]
)
def test_unicode_in_all_its_encodings(tmp_path, encoding):
    path = tmp_path / "a.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT
    assert list(rows(path)) == [(1, "0 0.5 0.5"), (2, "Ä 圆")]


def test_other_encodings_are_told(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("0 Ä".encode("latin-1") + b"\n")
    for read in (read_text, lambda path: list(rows(path))):
        with pytest.raises(OSError, match="save it as UTF-8"):
            read(path)
    assert os.fsencode(read_paths(path)[0][1]) == b"0 \xc4"  # as the system calls a file


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_rows_are_numbered_and_empty_ones_left_out(tmp_path, end):
    path = tmp_path / "a.txt"
    path.write_bytes(end.join(["a", "", " b ", "c"]).encode())
    assert list(rows(path)) == [(1, "a"), (3, "b"), (4, "c")]


def test_lists_of_paths(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text('a b.png\n\n"c.png"\n \' \' \n"\n')
    assert read_paths(path) == [(1, "a b.png"), (3, "c.png")]


def test_rows_over_the_pieces_in_which_a_file_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("dfine_jax.data.texts._CHUNK", 5)
    path = tmp_path / "a.txt"
    path.write_bytes("".join(f"row ä {n}\r\n" for n in range(50)).encode())
    assert list(rows(path)) == [(n + 1, f"row ä {n}") for n in range(50)]


def test_a_row_without_end_is_no_text(tmp_path, monkeypatch):
    monkeypatch.setattr("dfine_jax.data.texts._LONGEST_ROW", 100)
    monkeypatch.setattr("dfine_jax.data.texts._CHUNK", 50)
    (tmp_path / "a.txt").write_text("x" * 1000)
    with pytest.raises(OSError, match="line 1 has more than 100 characters"):
        list(rows(tmp_path / "a.txt"))


def test_what_is_no_regular_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    for path, reason in (
        (tmp_path / "pipe.txt", "a named pipe, expected a file"),
        ("/dev/zero", "a device, expected a file"),
        (tmp_path, "a folder, expected a file"),
    ):
        for read in (read_text, lambda path: list(rows(path))):
            with pytest.raises(OSError, match=reason):
                read(type(tmp_path)(path))


def test_a_file_that_is_too_large(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 2**20 + b"y")
    with pytest.raises(OSError, match="larger than 1 MiB"):
        read_text(tmp_path / "a", 2**20)


XML = '<?xml version="1.0" encoding="{}"?>\n<a>{}</a>'


@pytest.mark.parametrize(
    ("declared", "actual", "text"),
    [
        ("utf-8", "utf-8", "Ä圆"),
        ("UTF-8", "utf-8-sig", "Ä圆"),
        ("utf-16", "utf-16", "Ä圆"),
        ("utf-16", "utf-8", "Ä圆"),
        ("gb2312", "gb2312", "圆"),
        ("GB2312", "gbk", "镕圆"),
        ("gbk", "gbk", "圆"),
        ("gb18030", "gb18030", "圆"),
        ("big5", "big5", "圓"),
        ("Shift_JIS", "shift_jis", "円"),
        ("euc-jp", "euc-jp", "円"),
        ("euc-kr", "euc-kr", "원"),
        ("ISO-8859-1", "latin-1", "Äé"),
        ("windows-1252", "cp1252", "Ä\u2019"),
        ("windows-1251", "cp1251", "круг"),
        ("koi8-r", "koi8-r", "круг"),
        ("us-ascii", "utf-8", "Ä"),
        ("utf8mb4", "utf-8", "Ä圆"),
        ("unicode_escape", "utf-8", "圆"),
        ("idna", "utf-8", "圆"),
        ("hex", "utf-8", "圆"),
        ("utf8", "utf-8", "圆"),
    ],
)
def test_xml_in_the_encoding_it_declares(declared, actual, text):
    assert decode_xml(XML.format(declared, text).encode(actual)).endswith(f"<a>{text}</a>")


def test_xml_that_can_t_be_decoded():
    with pytest.raises(OSError, match="declares the encoding utf8mb4; save it as UTF-8"):
        decode_xml(XML.format("utf8mb4", "圆形").encode("gbk"))
    with pytest.raises(OSError, match="save it as UTF-8"):
        decode_xml("<a>圆形</a>".encode("gbk"))

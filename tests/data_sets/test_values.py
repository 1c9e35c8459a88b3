"""What a number, an id, a name, a truth value and a box may look like, in all formats."""

import math

import pytest

from dfine_jax.data import values
from dfine_jax.data.outlines import outline_box

DEEP = [[[[[[[[[[1]]]]]]]]]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, 3.0),
        (0.5, 0.5),
        ("0.5", 0.5),
        (" 12 ", 12.0),
        ("-1e2", -100.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+7", 7.0),
        ("1,5", 1.5),
    ],
)
def test_numbers(value, expected):
    assert values.number(value) == expected


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        -math.inf,
        "nan",
        "inf",
        "1e999",
        "-1e999",
        10**1000,
        "9" * 1000,
        "",
        " ",
        "abc",
        "1_000",
        "0x10",
        "1,5,0",
        "\u0661",
        True,
        None,
        [],
        [1],
        {},
        DEEP,
        b"1",
    ],
)
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match=r"^.{1,150} is no (finite )?number$"):
        values.number(value)


@pytest.mark.parametrize("value", [1, "1", 1.0, " 1 ", "1.0", "+1", "1."])
def test_one_id_in_many_forms(value):
    assert values.identity(value) == 1
    assert type(values.identity(value)) is int


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a1", "a1"),
        ("  leaf 0 (1) ", "leaf 0 (1)"),
        ("007", "007"),
        ("1.5", "1.5"),
        ("-3", -3),
        (0, 0),
        ("0", 0),
        ("3f2b-11", "3f2b-11"),
        (2**70, 2**70),
        ("1e3", "1e3"),
    ],
)
def test_ids_may_be_any_text(value, expected):
    assert values.identity(value) == expected


@pytest.mark.parametrize("value", [None, [], [1], {}, {"id": 1}, True, False, "", "  ", 1.5, math.nan, math.inf])
def test_what_is_no_id(value):
    with pytest.raises(ValueError, match=r"^category_id .* is no id$"):
        values.identity(value, "category_id")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True),
        (1, True),
        ("1", True),
        ("true", True),
        ("True", True),
        (" YES ", True),
        ("y", True),
        (1.0, True),
        (False, False),
        (0, False),
        ("0", False),
        ("false", False),
        ("No", False),
        ("", False),
        (None, False),
        ("0.0", False),
        ("none", False),
        ("Unspecified", False),
    ],
)
def test_truth_values(value, expected):
    assert values.truth(value) is expected


@pytest.mark.parametrize("value", ["maybe", [], [1], {}, math.nan, "nan"])
def test_what_is_neither_true_nor_false(value):
    with pytest.raises(ValueError, match="is neither true nor false"):
        values.truth(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cat", "cat"),
        (" traffic light ", "traffic light"),
        (7, "7"),
        (True, "true"),
        ("圆", "圆"),
        ("a\ud800", "a\ufffd\ufffd\ufffd"),
    ],
)
def test_names(value, expected):
    assert values.name(value) == expected


@pytest.mark.parametrize("value", [None, "", "  ", [], ["cat"], {}, DEEP])
def test_what_is_no_name(value):
    with pytest.raises(ValueError, match="is no name"):
        values.name(value)


def test_names_agree_whatever_their_case_and_joining_but_letters_don_t():
    assert len({values.plain_name(name) for name in ("Traffic Light", "traffic_light", " TRAFFIC-LIGHT")}) == 1
    assert values.plain_name("Straße") == values.plain_name("STRASSE")
    assert values.plain_name("a") != values.plain_name("A")


@pytest.mark.parametrize(
    ("one", "other"),
    [("B", "B-"), ("10", "-10"), ("type 1", "type -1"), ("T", "T_"), ("-", "_"), ("C", "C++"), ("x", "_x")],
)
def test_what_joins_no_words_tells_names_apart(one, other):
    assert values.plain_name(one) != values.plain_name(other)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(None, (10, 20, 40, 60)), (1, (10, 20, 40, 60)), (0, (10, 20, 30, 40)), ("BoxMode.XYXY_ABS", (10, 20, 30, 40))],
)
def test_modes_of_boxes(mode, expected):
    assert values.box([10, 20, 30, 40], mode) == expected


@pytest.mark.parametrize("mode", [2, 3, 4, "x", [], {}])
def test_other_modes_of_boxes_are_no_boxes(mode):
    with pytest.raises(ValueError, match=r"bbox_mode .* is neither 0"):
        values.box([10, 20, 30, 40], mode)


@pytest.mark.parametrize(
    "text", ["10,5 20 30 40", "10,5;20;30;40", "[10,5 20,0 30 40]", "10.5, 20, 30, 40", "10.5,20,30,40"]
)
def test_commas_part_numbers_or_are_in_them(text):
    assert values.box(text) == (10.5, 20, 40.5, 60)


BOX = (10.0, 20.0, 40.0, 60.0)


@pytest.mark.parametrize(
    "value",
    [
        [10, 20, 30, 40],
        (10, 20, 30, 40),
        ["10", " 20", "3e1", 40.0],
        "10 20 30 40",
        "[10, 20, 30, 40]",
        "10,20,30,40",
        {"x": 10, "y": 20, "width": 30, "height": 40},
        {"X": "10", "Y": 20, "W": 30, "H": 40},
        {"xmin": 10, "ymin": 20, "xmax": 40, "ymax": 60},
        {"x1": 10, "y1": 20, "x2": 40, "y2": 60},
        {"left": 10, "top": 20, "width": 30, "height": 40},
        {"left": 10, "top": 20, "right": 40, "bottom": 60},
    ],
)
def test_boxes(value):
    assert values.box(value) == BOX


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        [],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [1, 2, 3, None],
        [1, 2, 3, math.nan],
        [1, 2, 3, "1e999"],
        "1 2 3",
        {},
        DEEP,
        [1, 2, 3, [4]],
        [[1, 2, 3, 4]],
        {"x": 1, "y": 2},
        "abcd",
        [1, 2, 3, 10**400],
    ],
)
def test_what_is_no_box(value):
    with pytest.raises(ValueError, match="is not four numbers") as caught:
        values.box(value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (64, 48, (64, 48)),
        ("64", "48", (64, 48)),
        (64.0, 48, (64, 48)),
        (-1, -1, None),
        (0, 48, None),
        (None, 48, None),
        ("", "", None),
        ("wide", 48, None),
        (math.nan, 48, None),
        ([64], 48, None),
        ("1e999", 48, None),
    ],
)
def test_sizes_that_are_stated_and_that_aren_t(width, height, expected):
    assert values.size(width, height) == expected


def test_long_lists_of_names_are_cut():
    text = values.some(["x" * 500, *range(1000)], 3)
    assert len(text) < 100
    assert text.endswith(", 0, 1 and 998 more")


MASK = {"size": [10, 20], "counts": [23, 4, 6, 4, 163]}  # rows 3 to 6 of columns 2 and 3


@pytest.mark.parametrize(
    ("segmentation", "expected"),
    [
        ([[1, 2, 11, 2, 11, 22, 1, 22]], (1, 2, 11, 22)),
        ([1, 2, 11, 2, 11, 22], (1, 2, 11, 22)),
        ([["1", "2", "11", 22]], (1, 2, 11, 22)),
        ([[1, 2, 5, 6], [8, 9, 11, 22]], (1, 2, 11, 22)),
        ([[[1, 2], [11, 22], [3, 3]]], (1, 2, 11, 22)),
        ([[1, 2], [11, 22], [3, 3]], (1, 2, 11, 22)),
        ([{"x": 1, "y": 2}, {"x": 11, "y": "22"}], (1, 2, 11, 22)),
        ("[[1, 2, 11, 2, 11, 22]]", (1, 2, 11, 22)),
        (MASK, (2, 3, 4, 7)),
        (MASK | {"size": ["10", "20"]}, (2, 3, 4, 7)),
        ({"size": [10, 20], "counts": [25, 20, 155]}, (2, 0, 5, 10)),
    ],
)
def test_boxes_of_outlines(segmentation, expected):
    assert outline_box(segmentation) == expected


@pytest.mark.parametrize("seed", range(20))
def test_boxes_of_masks_are_those_of_pycocotools(seed):
    mask_api = pytest.importorskip("pycocotools.mask")
    import numpy as np

    rng = np.random.default_rng(seed)
    mask = np.zeros(rng.integers(1, 60, 2), np.uint8)
    while not mask.any():
        mask = (rng.random(mask.shape) < rng.choice([0.02, 0.5])).astype(np.uint8)
    encoded = mask_api.encode(np.asfortranarray(mask))
    left, top, width, height = mask_api.toBbox(encoded).tolist()
    text = {"size": encoded["size"], "counts": encoded["counts"].decode()}
    runs = np.diff([0, *(np.flatnonzero(np.diff(np.r_[0, mask.ravel("F")])) + 0), mask.size]).tolist()
    assert outline_box(text) == (left, top, left + width, top + height)
    assert outline_box({"size": list(mask.shape), "counts": runs}) == (left, top, left + width, top + height)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        {},
        5,
        "x",
        [[]],
        [[1]],
        [[1, 2, 3]],
        [[1, 2]],
        [["a", "b", 1, 2]],
        [[1, 2, math.nan, 4]],
        [None],
        [[None, 1]],
        [{"x": 1}],
        {"counts": []},
        MASK | {"counts": [5]},
        MASK | {"counts": [5, 10**9]},
        MASK | {"counts": [5, -1]},
        MASK | {"counts": "\ud800"},
        MASK | {"counts": None},
        MASK | {"size": [10]},
        MASK | {"size": "ab"},
        MASK | {"counts": "oooooooooooooooo"},
        [[[[[[[1, 2]]]]]]],
        MASK | {"size": [0, 0]},
        "[" * 100_000,
    ],
)
def test_what_is_no_outline(segmentation):
    with pytest.raises(ValueError, match=r".{5,}") as caught:
        outline_box(segmentation)
    assert len(str(caught.value)) < 250

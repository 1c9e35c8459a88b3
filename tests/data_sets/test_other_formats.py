"""Image folders, lists in JSON and labelme's files."""

import csv
import io
import json

import pytest
from dataset_files import boxes_of, write_picture, write_text

from dfine_jax.data.formats import open_dataset, recognise
from dfine_jax.data.samples import DataError

BOX = {"a.png": [("ant", 10, 20, 30, 40)]}
COLUMNS = {"bbox": [[10, 20, 20, 20]], "categories": ["ant"]}


def rows(*entries) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)


@pytest.mark.parametrize(
    "objects",
    [
        COLUMNS,
        {"bbox": [[10, 20, 20, 20]], "category": ["ant"]},
        {"bbox": [["10", "20", "20", "20"]], "label": ["ant"], "id": [5], "area": [400]},
        {"bboxes": [[10, 20, 20, 20]], "labels": ["ant"]},
        [{"bbox": [10, 20, 20, 20], "category": "ant"}],
        [{"bbox": {"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 40}, "label": "ant"}],
        [{"x": 10, "y": 20, "width": 20, "height": 20, "class": "ant"}],
        [{"segmentation": [[10, 20, 30, 20, 30, 40]], "label": "ant"}],
        json.dumps(COLUMNS),
        str(COLUMNS),
    ],
)
def test_forms_of_objects(tmp_path, objects):
    write_picture(tmp_path / "a.png")
    write_text(tmp_path / "metadata.jsonl", rows({"file_name": "a.png", "objects": objects, "width": 64, "height": 48}))
    source = recognise(tmp_path)
    assert (source.format, source.splits) == ("imagefolder", ())
    dataset = source.open(None)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


@pytest.mark.parametrize(
    "entry",
    [
        {"bbox": [10, 20, 20, 20], "label": "ant"},
        {"bbox": [10, 20, 30, 40], "bbox_mode": 0, "category": "ant"},
        {"xmin": 10, "ymin": 20, "xmax": 30, "ymax": 40, "class": "ant"},
        {"annotations": [{"bbox": [10, 20, 30, 40], "bbox_mode": 0, "category_id": "ant"}]},
        {"detection": {"instances": [{"bbox": [10, 20, 30, 40], "label": 0, "category": "ant"}]}},
    ],
)
@pytest.mark.parametrize("is_list", [False, True])
def test_an_entry_for_each_box(tmp_path, entry, is_list):
    if is_list and "detection" in entry:
        pytest.skip("only found in JSON Lines")
    write_picture(tmp_path / "a.png")
    other = json.loads(json.dumps(entry).replace("10", "12"))
    entries = [{"file_name": "a.png", **one} for one in (entry, other)]
    text = json.dumps(entries) if is_list else rows(*entries)
    write_text(tmp_path / ("labels.json" if is_list else "metadata.jsonl"), text)
    dataset = open_dataset(tmp_path, None)
    assert [box[:2] for box in boxes_of(dataset)["a.png"]] == [("ant", 10), ("ant", 12)]
    assert not dataset.problems


def test_a_table_with_a_row_for_each_box(tmp_path):
    for name in "ab":
        write_picture(tmp_path / f"{name}.png", colour=(ord(name), 2, 3))
    header = "file_name,label,xmin,ymin,xmax,ymax\n"
    write_text(tmp_path / "metadata.csv", header + "a.png,ant,10,20,30,40\nb.png,,,,,\na.png,bee,1,2,3,4\n")
    dataset = open_dataset(tmp_path, None)
    assert boxes_of(dataset) == {"a.png": [*BOX["a.png"], ("bee", 1, 2, 3, 4)], "b.png": []}
    assert not dataset.problems


def test_rows_without_boxes_are_told_by_their_keys(tmp_path):
    write_picture(tmp_path / "a.png")
    write_text(tmp_path / "metadata.jsonl", rows({"file_name": "a.png", "regions": []}))
    assert "has no boxes: its rows have file_name, regions" in open_dataset(tmp_path, None).remarks[0]


@pytest.mark.parametrize("mode", [2, 3, 4])
def test_modes_of_boxes_that_are_not_of_pixels(tmp_path, mode):
    write_picture(tmp_path / "a.png")
    objects = [{"bbox": [10, 20, 20, 20], "bbox_mode": mode, "category": "ant"}]
    write_text(tmp_path / "metadata.jsonl", rows({"file_name": "a.png", "objects": objects}))
    (problem,) = open_dataset(tmp_path, None).problems
    assert f"bbox_mode {mode} is neither 0" in problem.message


def test_fractions_are_no_pixels(tmp_path):
    write_picture(tmp_path / "a.png")
    middle = {"label": "ant", "coordinates": {"x": 0.5, "y": 0.5, "width": 0.25, "height": 0.5}}
    for name, content in (
        ("labels.json", [{"image": "a.png", "annotations": [middle]}]),
        ("labels.json", [{"file_name": "a.png", "bbox": [0.1, 0.2, 0.3, 0.4], "label": "ant"}]),
    ):
        write_text(tmp_path / name, json.dumps(content))
        with pytest.raises(DataError, match="look like fractions of the picture"):
            open_dataset(tmp_path, None)


def test_boxes_beside_the_name(tmp_path):
    write_picture(tmp_path / "a.png")
    write_text(tmp_path / "metadata.jsonl", rows({"file_name": "a.png", **COLUMNS}))
    assert boxes_of(open_dataset(tmp_path, None)) == BOX


@pytest.mark.parametrize("objects", ["as JSON", "as Python"])
def test_tables(tmp_path, objects):
    write_picture(tmp_path / "a.png")
    out = io.StringIO()
    table = csv.writer(out)
    table.writerows(
        [
            ["file_name", "objects"],
            ["a.png", json.dumps(COLUMNS) if objects == "as JSON" else str(COLUMNS)],
            ["b.png", ""],
        ]
    )
    write_picture(tmp_path / "b.png", colour=(1, 2, 3))
    write_text(tmp_path / "metadata.csv", out.getvalue(), "utf-8-sig")
    assert boxes_of(open_dataset(tmp_path, None)) == {**BOX, "b.png": []}


def test_a_list_as_metadata(tmp_path):
    write_picture(tmp_path / "a.png")
    write_text(tmp_path / "metadata.json", json.dumps([{"file_name": "a.png", "objects": COLUMNS}], indent=1))
    assert boxes_of(open_dataset(tmp_path, None)) == BOX


@pytest.mark.parametrize("layout", ["apart", "together"])
def test_parts_of_an_image_folder_have_the_classes_of_all(tmp_path, layout):
    bee = {"bbox": [[1, 2, 3, 4]], "categories": ["bee"]}
    for split, objects in (("train", COLUMNS), ("validation", bee)):
        write_picture(tmp_path / split / "a.png")
        if layout == "apart":
            write_text(tmp_path / split / "metadata.jsonl", rows({"file_name": "a.png", "objects": objects}))
    if layout == "together":
        entries = [
            {"file_name": f"{split}/a.png", "objects": found}
            for split, found in (("train", COLUMNS), ("validation", bee))
        ]
        write_text(tmp_path / "metadata.jsonl", rows(*entries))
    assert recognise(tmp_path).splits == ("train", "val")
    assert boxes_of(open_dataset(tmp_path, "train")) == BOX
    dataset = open_dataset(tmp_path, "val")
    assert (dataset.class_names, len(dataset)) == (("ant", "bee"), 1)
    assert boxes_of(dataset) == {"a.png": [("bee", 1, 2, 4, 6)]}


@pytest.mark.parametrize("number", [2, "2", 2.0])
def test_numbers_as_classes(tmp_path, number):
    write_picture(tmp_path / "a.png")
    write_text(
        tmp_path / "metadata.jsonl", rows({"file_name": "a.png", "objects": {**COLUMNS, "categories": [number]}})
    )
    dataset = open_dataset(tmp_path, None)
    assert dataset.class_names == ("2",)
    assert "no names" in dataset.remarks[0]
    write_text(tmp_path / "classes.txt", "cow\nbee\nant\n")
    dataset = open_dataset(tmp_path, None)
    assert dataset.class_names == ("cow", "bee", "ant")
    assert boxes_of(dataset) == BOX


BAD_ROWS = [
    "{",
    "5",
    "null",
    "[]",
    "{}",
    '{"file_name": 5}',
    "[" * 100_000,
    '{"file_name": null, "objects": {}}',
    "{    \0",
]
BAD_OBJECTS = [
    5,
    "x",
    "[",
    [5],
    [{}],
    [{"bbox": [1, 2, 3], "label": "ant"}],
    [{"bbox": [1, 2, 3, 4]}],
    {"bbox": [[1, 2, 3, 4]]},
    {"bbox": 5, "label": 5},
    {"bbox": [[1, 2, 3, 4]], "categories": []},
    {"bbox": [[1, 2, 3, None]], "categories": ["ant"]},
    [{"bbox": [1, 2, 3, float("nan")], "label": "ant"}],
    {"bbox": [[1, 2, 3, 4]], "categories": [[1]]},
    {"bbox": [[1, 2, 3, 4]], "categories": [None]},
    {"bbox": [[1, 2, 3, 10**400]], "categories": ["x"]},
]


@pytest.mark.parametrize(
    "row", [*BAD_ROWS, *(json.dumps({"file_name": "b.png", "objects": one}) for one in BAD_OBJECTS)]
)
def test_a_bad_row_is_one_problem(tmp_path, row):
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png", colour=(1, 2, 3))
    write_text(tmp_path / "metadata.jsonl", row + "\n" + rows({"file_name": "a.png", "objects": COLUMNS}))
    dataset = open_dataset(tmp_path, None)
    assert boxes_of(dataset)["a.png"] == BOX["a.png"]
    (problem,) = dataset.problems
    assert (problem.file.name, problem.line) == ("metadata.jsonl", 1)
    assert len(problem.message) < 350


CREATEML = [
    {"image": "a.png", "annotations": [{"label": "ant", "coordinates": {"x": 20, "y": 30, "width": 20, "height": 20}}]}
]


@pytest.mark.parametrize(
    "entries",
    [
        CREATEML,
        [
            {
                "imagefilename": "a.png",
                "annotation": [{"label": "ant", "coordinates": {"x": "20", "y": 30.0, "width": 20, "height": 20}}],
            }
        ],
        [{"name": "a.png", "labels": [{"category": "ant", "box2d": {"x1": 10, "y1": 20, "x2": 30, "y2": 40}}]}],
        [{"name": "a.png", "labels": [{"category": "ant", "poly2d": [{"x": 10, "y": 20}, {"x": 30, "y": 40}]}]}],
        [{"file_name": r"C:\x\a.png", "annotations": [{"category_id": "ant", "bbox": [10, 20, 20, 20]}]}],
        [{"image": "/data/upload/1/0a1b2c3d-a.png", "objects": COLUMNS}],
    ],
)
@pytest.mark.parametrize("place", ["labels.json", "annotations/labels.json", "images/_annotations.createml.json"])
def test_lists_with_an_entry_for_each_picture(tmp_path, entries, place):
    write_picture(tmp_path / "images/a.png")
    file = write_text(tmp_path / place, json.dumps(entries))
    for path in (tmp_path, file):
        source = recognise(path)
        assert (source.format, source.splits) == ("json list", ())
        dataset = source.open(None)
        assert boxes_of(dataset) == BOX
        assert not dataset.problems


def test_createml_in_parts(tmp_path):
    for split, label in (("train", "ant"), ("valid", "bee")):
        write_picture(tmp_path / split / "a.png")
        text = json.dumps(CREATEML).replace('ant"', label + '"')
        write_text(tmp_path / split / "_annotations.createml.json", text)
    assert recognise(tmp_path).splits == ("train", "val")
    assert boxes_of(open_dataset(tmp_path, "val")) == {"a.png": [("bee", 10, 20, 30, 40)]}
    assert open_dataset(tmp_path, "train").class_names == ("ant", "bee")


def test_lists_of_something_else_are_told(tmp_path):
    write_picture(tmp_path / "images/a.png")
    for content in ([{"id": 3, "data": {"image": "a.png"}, "completions": []}], [1, 2], [None], []):
        write_text(tmp_path / "labels.json", json.dumps(content))
        with pytest.raises(DataError, match="is a JSON list") as caught:
            open_dataset(tmp_path, None)
        assert len(str(caught.value)) < 500


def labelme(points=((10, 20), (30, 40)), kind="rectangle", label="ant", path="a.png", **others):
    shape = {"label": label, "points": points, "shape_type": kind, "group_id": None, "flags": {}}
    return json.dumps({"version": "5.2.1", "flags": {}, "shapes": [shape], "imagePath": path, "imageData": None,
                       "imageHeight": 48, "imageWidth": 64, **others})  # fmt: skip


@pytest.mark.parametrize(
    ("points", "kind"),
    [
        ([[10, 20], [30, 40]], "rectangle"),
        ([[30, 40], [10, 20]], "rectangle"),
        ([[10, 20], [30, 20], [30, 40]], "polygon"),
        ([[20, 30], [20, 40]], "circle"),
        ([[10, 20], [30, 20], [30, 40], [10, 40]], "rotation"),
        ([["10", 20], [30, "40"]], None),
    ],
)
@pytest.mark.parametrize("folder", [".", "train", "val"])
def test_labelme(tmp_path, points, kind, folder):
    write_picture(tmp_path / folder / "a.png")
    write_text(tmp_path / folder / "a.json", labelme(points, kind))
    source = recognise(tmp_path)
    assert (source.format, source.splits) == ("labelme", () if folder == "." else (folder,))
    dataset = source.open(source.splits[0] if source.splits else None)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


@pytest.mark.parametrize(
    ("picture", "labels"),
    [("images/a.png", "labels/a.json"), ("images/a.png", "json/a.json"), ("a.png", "annotations/a.json")],
)
def test_labelme_in_folders_of_its_own(tmp_path, picture, labels):
    write_picture(tmp_path / picture)
    write_text(tmp_path / labels, labelme(path=r"..\images\a.png"))
    assert boxes_of(open_dataset(tmp_path, None)) == BOX


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (labelme(kind="point"), "a point has no box"),
        (labelme(points=5), "is no outline"),
        (labelme(points=[[1, 2]], kind="circle"), "encloses nothing"),
        (labelme(points=[[1, None], [2, 3]], kind="circle"), "None is no number"),
        (labelme(label=None), "None is no name"),
        (labelme(shapes=[5]), "5 is no object"),
        (labelme(shapes={"a": 1}), "no object with a list of shapes"),
        ('{"shapes": [', "its picture is left out"),
        ('{"shapes": ' + "[" * 100_000, "its picture is left out"),
    ],
)
def test_shapes_that_can_t_be_read(tmp_path, text, said):
    for stem in "ab":
        write_picture(tmp_path / f"{stem}.png")
    write_text(tmp_path / "a.json", labelme())
    write_text(tmp_path / "b.json", text.replace("a.png", "b.png"))
    dataset = open_dataset(tmp_path, None)
    assert boxes_of(dataset)["a.png"] == BOX["a.png"]
    (problem,) = dataset.problems
    assert problem.file.name == "b.json"
    assert said in problem.message


def test_labelme_in_several_folders_with_the_same_names(tmp_path):
    for folder in "xy":
        write_picture(tmp_path / f"images/{folder}/a.png")
        write_text(tmp_path / f"labels/{folder}/a.json", labelme(label=folder))
    dataset = open_dataset(tmp_path, None)
    found = {record.picture.parent.name: dataset.class_names[record.labels[0]] for record in dataset.records}
    assert found == {"x": "x", "y": "y"}


def test_one_file_of_labelme_is_told(tmp_path):
    write_picture(tmp_path / "a.png")
    with pytest.raises(DataError, match="labelme's JSON of one picture; give the folder"):
        recognise(write_text(tmp_path / "a.json", labelme()))

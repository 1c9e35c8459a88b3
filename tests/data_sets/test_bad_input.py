"""What is wrong with a data set: left out with a problem that names file and line, or refused in one line."""

import json

import numpy as np
import pytest
from dataset_files import write_coco, write_picture
from PIL import Image

from dfine_jax.data.formats import open_dataset
from dfine_jax.data.samples import DataError, ProblemKind, UnreadablePictureError, summarise


def box(number: int, bbox, category: int = 3, **others) -> dict:
    return {"id": number, "image_id": 1, "category_id": category, "bbox": bbox, **others}


def test_every_kind_of_bad_box_is_left_out_with_its_line(tmp_path):
    write_picture(tmp_path / "a.png")
    annotations = [
        box(1, [10, 10, 20, 20]),
        box(2, [10, 10, 0, 20]),
        box(3, [10, 10, 20, -5]),
        box(4, [64, 0, 9, 9]),
        box(5, [60, 40, 9.5, 8]),
        box(6, [1, 1, 5, 5], category=4),
        box(7, [10, 10, 20, 20]),
        box(8, [10, 10, 20, 20], category=7),
        box(9, [1, 2, 3]),
        box(10, [1, 2, 3, None]),
        box(11, [1, 2, float("nan"), 3]),
        {"id": 12, "bbox": [1, 2, 3, 4], "category_id": 3},
        box(13, [1, 2, 3, 4]) | {"image_id": 77},
        box(14, [60, 30, 4.6, 9]),
    ]
    file = write_coco(tmp_path / "labels.json", annotations=annotations)
    read = open_dataset(file, None)
    found = {(problem.kind, problem.line) for problem in read.problems}
    first = 1 + file.read_text().splitlines().index(json.dumps(annotations[0]) + ",")
    kinds = {
        2: ProblemKind.ZERO_SIZE_BOX, 3: ProblemKind.ZERO_SIZE_BOX, 4: ProblemKind.OFF_IMAGE_BOX,
        5: ProblemKind.OFF_IMAGE_BOX, 6: ProblemKind.UNKNOWN_CLASS, 7: ProblemKind.DUPLICATE_BOX,
        9: ProblemKind.BROKEN_LABEL, 10: ProblemKind.BROKEN_LABEL, 11: ProblemKind.BROKEN_LABEL,
        12: ProblemKind.BROKEN_LABEL, 13: ProblemKind.BROKEN_LABEL,
    }  # fmt: skip
    assert found == {(kind, first + number - 1) for number, kind in kinds.items()}
    assert all(problem.file == file for problem in read.problems)
    # The box that reaches out by 5.5 pixels is clipped, the one by 0.6 taken as rounding.
    expected = [[10, 10, 30, 30], [60, 40, 64, 48], [10, 10, 30, 30], [60, 30, 64.6, 39]]
    np.testing.assert_allclose(read.records[0].boxes, expected, rtol=1e-6)
    assert read.records[0].labels.tolist() == [0, 0, 1, 0]
    text = next(str(problem) for problem in read.problems if problem.kind is ProblemKind.UNKNOWN_CLASS)
    assert text == f"{file}:{first + 5}: unknown class: 4 is none of 3, 7; left out (a.png)"
    assert summarise(read.problems).startswith("5 broken label, 2 zero-size box, 2 off-image box")


def test_bad_pictures_are_left_out(tmp_path):
    write_picture(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no picture at all")
    names = ["a.png", "gone.png", "text.png", "a.png"]
    images = [{"id": number, "file_name": name} for number, name in enumerate(names)]
    images += [{"id": 0, "file_name": "a.png"}, {"id": 99}]
    file = write_coco(tmp_path / "labels.json", images=images)
    read = open_dataset(file, None)
    assert [record.image_id for record in read.records] == [0]
    assert [(problem.kind, problem.file.name, problem.line) for problem in read.problems] == [
        (ProblemKind.DUPLICATE_PICTURE, "labels.json", 7),
        (ProblemKind.BROKEN_LABEL, "labels.json", 8),
        (ProblemKind.DUPLICATE_PICTURE, "labels.json", 6),
        (ProblemKind.MISSING_PICTURE, "labels.json", 4),
        (ProblemKind.UNREADABLE_PICTURE, "text.png", None),
    ]


def test_a_picture_that_breaks_off_is_found_when_decoded(tmp_path):
    path = tmp_path / "a.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1500])
    read = open_dataset(write_coco(tmp_path / "labels.json", images=[{"id": 1, "file_name": "a.jpg"}]), None)
    assert not read.problems
    with pytest.raises(UnreadablePictureError, match=r"can't decode .*a\.jpg: .*truncated"):
        read.sample(0)


def test_yolo_rows_that_are_no_labels(tmp_path):
    write_picture(tmp_path / "train/images/a.png")
    rows = [
        "0 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 0.2",
        "ant 0.5 0.5 0.2 0.2",
        "0 0.5 0.5 nan 0.2",
        "5 0.5 0.5 0.2 0.2",
        "0 .5 .5 0 .1",
    ]
    (tmp_path / "train/labels").mkdir()
    (tmp_path / "train/labels/a.txt").write_text("\n".join(rows))
    (tmp_path / "data.yaml").write_text("train: ../train/images\nnames: [ant]\n")
    read = open_dataset(tmp_path, "train")
    assert [(problem.kind.value, problem.file.name, problem.line) for problem in read.problems] == [
        ("broken label", "a.txt", 2),
        ("broken label", "a.txt", 3),
        ("broken label", "a.txt", 4),
        ("unknown class", "a.txt", 5),
        ("zero-size box", "a.txt", 6),
    ]
    assert len(read.records[0].boxes) == 1


def test_voc_files_that_are_broken(tmp_path):
    for stem in "abc":
        write_picture(tmp_path / f"{stem}.png")
    good = "<object><name>ant</name><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
    (tmp_path / "a.xml").write_text(f"<annotation>\n{good}\n<object><name>ant</name></object>\n</annotation>")
    (tmp_path / "b.xml").write_text("<annotation>\n<object>\n</annotation>")
    (tmp_path / "c.xml").write_text(f"<annotation>{good}</annotation>")
    read = open_dataset(tmp_path, None)
    assert [(record.name.rpartition("/")[2], len(record.boxes)) for record in read.records] == [
        ("a.png", 1),
        ("c.png", 1),
    ]
    assert [(problem.kind.value, problem.file.name, problem.line) for problem in read.problems] == [
        ("broken label", "a.xml", 3),
        ("broken label", "b.xml", 3),
    ]


def refuse(path, split, pattern):
    with pytest.raises(DataError, match=pattern) as caught:
        open_dataset(path, split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ('{"images": [\n{"id": 1,}\n]}', r"labels\.json:2: not valid JSON"),
        ('{"images": [\n{"id": 1}\n', r"labels\.json:3: not valid JSON: expected ,"),
        ("", r"labels\.json:1: not valid JSON: expected \{"),
        ("[1, 2]", r"labels\.json is a JSON list that begins with 1"),
        ('{"info": 1}', r"labels\.json has no categories: .*it has info"),
        ('{"images": [], "categories": [{"id": 1, "name": "ant"}]}', "has no images"),
    ],
)
def test_coco_files_that_are_refused(tmp_path, text, pattern):
    (tmp_path / "labels.json").write_text(text)
    refuse(tmp_path / "labels.json", None, pattern)


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("names: [ant\ntrain: x\n", r"data\.yaml:2: not valid YAML"),
        ("train: images\n", "names no classes"),
        ("train: gone\nnames: [ant]\n", "refers to gone, which is not at .*gone"),
        ("train: empty\nnames: [ant]\n", "has no usable picture"),
        ("train: empty\nnames: {one: ant}\n", "must be class numbers"),
        ("val: empty\nnames: [ant]\n", "has no train split"),
        (f"train: empty\nmore: {'[' * 51}{']' * 51}\nnames: [ant]\n", "nested too deeply"),
        (f"train: empty\nmore: {'[' * 40}{']' * 40}\nnames: [ant]\n", "has no usable picture"),
        ("names: " + "[" * 10**6, "nest(ed too deeply|ing depth)"),
        ("- " * 10**6, "nest(ed too deeply|ing depth)"),
    ],
)
def test_yolo_descriptions_that_are_refused(tmp_path, text, pattern):
    (tmp_path / "empty").mkdir()
    (tmp_path / "data.yaml").write_text(text)
    refuse(tmp_path, "train", pattern)


def test_places_without_a_data_set(tmp_path):
    refuse(tmp_path / "gone", "train", "gone does not exist")
    refuse(tmp_path, "train", "is no known data set: .* in it, but nothing")
    (tmp_path / "notes.txt").write_text("hello")
    refuse(tmp_path / "notes.txt", "train", "neither a COCO .json nor a YOLO .yaml")
    (tmp_path / "labels").mkdir()
    write_coco(tmp_path / "labels/train.json")
    refuse(tmp_path / "labels/train.json", None, r"no picture of .*such as a\.png.*looked in")


def test_no_usable_picture_names_the_first_problem(tmp_path):
    (tmp_path / "a.png").write_text("no picture")
    write_coco(tmp_path / "labels.json")
    refuse(tmp_path / "labels.json", None, "has no usable picture; the first problem is .*a.png: unreadable picture")


def rows_of_one_picture(count):
    return [box(i, [i % 50, i // 50, 5, 5]) for i in range(count)]


def test_more_boxes_of_a_picture_than_it_can_have(tmp_path, monkeypatch):
    monkeypatch.setattr("dfine_jax.data.coco.MOST_BOXES", 10)
    monkeypatch.setattr("dfine_jax.data.checks.MOST_BOXES", 10)
    monkeypatch.setattr("dfine_jax.data.samples.Findings.MOST_BROKEN", 20)
    write_picture(tmp_path / "a.png")
    read = open_dataset(write_coco(tmp_path / "labels.json", annotations=rows_of_one_picture(31)), None)
    assert len(read.records[0].boxes) == 10
    assert [str(problem.kind) for problem in read.problems] == ["broken label"]
    file = write_coco(tmp_path / "labels.json", annotations=rows_of_one_picture(40))
    with pytest.raises(DataError, match=r"labels\.json:37: 21 annotations of pictures that have over 10 already, this"):
        open_dataset(file, None)


@pytest.mark.parametrize("form", ["json list", "labelme"])
def test_boxes_beyond_the_most_are_not_even_read(tmp_path, monkeypatch, form):
    for module in ("objects", "labelme", "checks"):
        monkeypatch.setattr(f"dfine_jax.data.{module}.MOST_BOXES", 10)
    write_picture(tmp_path / "a.png")
    corners = [[[i % 50, i // 50], [i % 50 + 5, i // 50 + 5]] for i in range(30)]
    if form == "labelme":
        shapes = [{"label": "ant", "shape_type": "rectangle", "points": points} for points in corners]
        content = {"imagePath": "a.png", "shapes": [*shapes, {"label": "cow", "points": "none"}]}
    else:
        boxes = [{"category": "ant", "bbox": [*first, 5, 5]} for first, _ in corners]
        content = [{"name": "a.png", "labels": [*boxes, {"category": "cow"}]}]
    (tmp_path / "a.json").write_text(json.dumps(content))
    read = open_dataset(tmp_path, None)
    assert len(read.records[0].boxes) == 10
    assert read.class_names == ("ant",)
    assert [str(problem.message)[:24] for problem in read.problems] == ["more than 10 boxes in on"]


class TestVeryManyPictures:
    @pytest.fixture(autouse=True)
    def _few_are_many(self, monkeypatch):
        monkeypatch.setattr("dfine_jax.data.references.MANY", 100)
        monkeypatch.setattr("dfine_jax.data.references.TRIED", 10)

    def yolo(self, folder, names):
        (folder / "train.txt").write_text("".join(f"{name}\n" for name in names))
        (folder / "data.yaml").write_text("names: [ant]\ntrain: train.txt\n")
        write_picture(folder / "pictures" / "a.png")
        return folder

    def test_none_of_which_is_there(self, tmp_path):
        folder = self.yolo(tmp_path, [f"pictures/{i}.png" for i in range(101)])
        with pytest.raises(
            DataError, match=r"lists 101 pictures, and none of 11 looked for is there, such as .*/0\.png"
        ):
            open_dataset(folder)

    @pytest.mark.parametrize("there", ["pictures/a.png", "elsewhere/a.png"])
    def test_one_of_which_is_there(self, tmp_path, there):
        read = open_dataset(self.yolo(tmp_path, [*(f"pictures/{i}.png" for i in range(100)), there]))
        assert [record.name for record in read.records] == [str(tmp_path / "pictures" / "a.png")]
        assert summarise(read.problems) == "100 missing picture"

    def test_that_are_one(self, tmp_path):
        read = open_dataset(self.yolo(tmp_path, ["pictures/a.png"] * 150))
        assert len(read) == 1
        assert summarise(read.problems) == "149 duplicate picture"
        assert str(read.problems[0]).endswith(
            "train.txt:2: duplicate picture: pictures/a.png is listed a second time; the second is left out"
        )

    def test_in_cocos_form(self, tmp_path):
        images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 48} for i in range(101)]
        with pytest.raises(DataError, match=r"none of 11 looked for is there"):
            open_dataset(write_coco(tmp_path / "labels.json", images=images), None)

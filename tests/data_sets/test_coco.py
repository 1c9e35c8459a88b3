"""COCO's JSON as tools and people write it."""

import json

import pytest
from dataset_files import boxes_of, write_coco, write_picture, write_text

from dfine_jax.data.formats import open_dataset, recognise
from dfine_jax.data.samples import DataError, Findings, ProblemKind

BOX = {"a.png": [("ant", 10, 20, 30, 40)]}
IMAGE = {"id": 1, "file_name": "a.png", "width": 64, "height": 48}
ANNOTATION = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 20, 20, 20], "area": 400, "iscrowd": 0}


def read(folder, image=None, annotation=None, categories=None, picture="a.png"):
    """A data set of one picture and one box, whose entries are changed."""
    write_picture(folder / picture)
    images = [IMAGE if image is None else {**IMAGE, **image}]
    annotations = [{**ANNOTATION, **(annotation or {})}]
    images, annotations = (
        [{key: value for key, value in one.items() if value is not ...} for one in many]
        for many in (images, annotations)
    )
    return open_dataset(write_coco(folder / "labels.json", images, annotations, categories), None)


@pytest.mark.parametrize("there", [1, "1", 1.0, " 1 ", "1.0"])
@pytest.mark.parametrize("referred", [1, "1", 1.0, " 1 "])
def test_ids_agree_in_whatever_form(tmp_path, there, referred):
    categories = [{"id": there, "name": "ant"}]
    dataset = read(tmp_path, {"id": there}, {"image_id": referred, "category_id": referred}, categories)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems
    assert dataset.records[0].image_id == there


@pytest.mark.parametrize("key", ["img-000001", "1a", "3f2504e0-4f89-11d3", "a.png", "007", "圆"])
def test_ids_may_be_text(tmp_path, key):
    dataset = read(tmp_path, {"id": key}, {"image_id": key, "category_id": key}, [{"id": key, "name": "ant"}])
    assert boxes_of(dataset) == BOX
    assert (dataset.records[0].image_id, dataset.category_ids) == (key, (key,))


def test_labels_follow_numbers_and_then_the_file(tmp_path):
    categories = [
        {"id": "x", "name": "x"},
        {"id": "10", "name": "ten"},
        {"id": 2, "name": "two"},
        {"id": "b", "name": "b"},
    ]
    assert read(tmp_path, annotation={"category_id": "x"}, categories=categories).class_names == (
        "two",
        "ten",
        "x",
        "b",
    )


@pytest.mark.parametrize(
    "annotation",
    [
        {"bbox": ["10", "20", "20", "20.0"]},
        {"bbox": "[10, 20, 20, 20]"},
        {"bbox": {"x": 10, "y": 20, "width": 20, "height": 20}},
        {"area": "400"},
        {"area": None},
        {"area": -1},
        {"area": ""},
        {"iscrowd": "0"},
        {"iscrowd": "false"},
        {"iscrowd": False},
        {"iscrowd": None},
        {"iscrowd": ...},
        {"id": ...},
        {"area": ...},
        {"category_id": "ant"},
        {"category_id": "Ant"},
        {"category_id": ..., "category": "ant"},
        {"area": 1e300},
    ],
)
def test_forms_of_an_annotation(tmp_path, annotation):
    dataset = read(tmp_path, annotation=annotation)
    assert boxes_of(dataset) == BOX
    assert dataset.records[0].areas.tolist() == [400]
    assert not dataset.problems


@pytest.mark.parametrize("crowd", [1, "1", "true", True, "yes", 1.0])
def test_crowds(tmp_path, crowd):
    record = read(tmp_path, annotation={"iscrowd": crowd}).records[0]
    assert (len(record.boxes), len(record.crowd_boxes)) == (0, 1)


OUTLINE = [[10, 20, 30, 20, 30, 40]]


@pytest.mark.parametrize("box", [..., None, [], "", [0, 0, 0, 0]])
@pytest.mark.parametrize(
    "outline",
    [OUTLINE, {"size": [48, 64], "counts": [500, 20, *[28, 20] * 19, 1640]}, [[10, 20, 12, 22], [29, 30, 30, 40]]],
)
def test_boxes_from_outlines(tmp_path, box, outline):
    dataset = read(tmp_path, annotation={"bbox": box, "segmentation": outline})
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


@pytest.mark.parametrize(
    "image",
    [
        {"width": -1, "height": -1},
        {"width": 0, "height": 0},
        {"width": "64", "height": "48"},
        {"width": None, "height": None},
        {"width": ..., "height": ...},
        {"width": "unknown", "height": []},
        {"width": 64.0, "height": 48.0},
        {"file_name": ..., "filename": "a.png"},
        {"file_name": ..., "path": "/home/me/a.png"},
        {"file_name": "./a.png"},
        {"file_name": r".\a.png"},
        {"file_name": r"D:\set\a.png"},
        {"file_name": "A.PNG"},
        {"file_name": "a.jpg"},
        {"file_name": "a"},
        {"file_name": "https://host/upload/1/a.png?x=1"},
        {"file_name": "/data/upload/1/0a1b2c3d-a.png"},
        {"file_name": "../../../etc/a.png"},
    ],
)
def test_forms_of_an_image(tmp_path, image):
    dataset = read(tmp_path, image)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


BAD = [None, [], [1], {}, {"a": 1}, True, float("nan"), float("inf"), "1e999", 10**1000, "", [[[[[]]]]]]


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("key", ["image_id", "category_id", "bbox", "iscrowd", "area"])
def test_a_wrong_value_is_one_problem_and_costs_no_other_entry(tmp_path, key, value):
    write_picture(tmp_path / "a.png")
    other = {**ANNOTATION, "bbox": [1, 2, 3, 4]}
    file = write_coco(tmp_path / "labels.json", annotations=[{**ANNOTATION, key: value}, other])
    dataset = open_dataset(file, None)
    assert ("ant", 1, 2, 4, 6) in boxes_of(dataset)["a.png"]
    fine = {("iscrowd", None), ("iscrowd", True), ("iscrowd", ""), ("area", None), ("area", "")}
    expected = 0 if any(key == k and value is v for k, v in fine) else 1
    assert len(dataset.problems) == expected
    line = 1 + next(i for i, row in enumerate(file.read_text().splitlines()) if '"image_id"' in row)
    for problem in dataset.problems:
        assert (problem.file, problem.line) == (file, line)
        assert len(problem.message) < 250


@pytest.mark.parametrize("value", [None, 5, "x", [], [1], float("nan"), 10**1000])
@pytest.mark.parametrize("key", ["images", "annotations", "categories"])
def test_entries_that_are_no_objects(tmp_path, key, value):
    write_picture(tmp_path / "a.png")
    rows = {"images": [IMAGE], "annotations": [ANNOTATION], "categories": [{"id": 3, "name": "ant"}]}
    rows[key] = [value, *rows[key]]
    dataset = open_dataset(write_text(tmp_path / "labels.json", json.dumps(rows)), None)
    assert boxes_of(dataset) == BOX
    assert [(problem.kind, problem.line) for problem in dataset.problems] == [(ProblemKind.BROKEN_LABEL, 1)]


@pytest.mark.parametrize(
    "rows",
    [
        {"images": {"1": {"file_name": "a.png"}}, "annotations": {"1": {**ANNOTATION}}},
        {"images": {"1": {"file_name": "a.png"}}, "annotations": {"1": [{"category_id": 3, "bbox": [10, 20, 20, 20]}]}},
        {"images": [IMAGE], "annotations": [ANNOTATION], "categories": {"3": {"name": "ant"}}},
    ],
)
def test_objects_in_place_of_lists(tmp_path, rows):
    write_picture(tmp_path / "a.png")
    rows = {"categories": [{"id": 3, "name": "ant"}], **rows}
    assert boxes_of(open_dataset(write_text(tmp_path / "x.json", json.dumps(rows)), None)) == BOX


def test_grouping_categories_are_no_classes_but_those_with_boxes_are(tmp_path):
    categories = [
        {"id": 0, "name": "insects", "supercategory": "none"},
        {"id": 3, "name": "ant", "supercategory": "insects"},
        {"id": 4, "name": "person", "supercategory": "person"},
    ]
    dataset = read(tmp_path, categories=categories)
    assert dataset.class_names == ("ant", "person")
    assert "insects" in dataset.remarks[0]
    assert read(tmp_path, annotation={"category_id": 0}, categories=categories).class_names[0] == "insects"


@pytest.mark.parametrize("names", [("ant", "ant"), ("Ant", "ant"), ("fire ant", "Fire_Ant")])
def test_categories_of_one_name_are_one_class(tmp_path, names):
    write_picture(tmp_path / "a.png")
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    boxes = [{**ANNOTATION, "category_id": 0}, {**ANNOTATION, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    dataset = open_dataset(write_coco(tmp_path / "x.json", annotations=boxes, categories=categories), None)
    assert dataset.class_names == names[:1]
    assert dataset.records[0].labels.tolist() == [0, 0]
    assert all(name in dataset.remarks[0] for name in names)
    assert not dataset.problems


def test_letters_stay_apart(tmp_path):
    categories = [{"id": number, "name": name} for number, name in enumerate("aAbB")]
    assert read(tmp_path, annotation={"category_id": 1}, categories=categories).class_names == tuple("aAbB")


@pytest.mark.parametrize("name", [None, "", [], {}, ...])
def test_a_category_without_a_name_is_called_by_its_id(tmp_path, name):
    dataset = read(tmp_path, categories=[{"id": 3, **({} if name is ... else {"name": name})}])
    assert boxes_of(dataset) == {"a.png": [("3", 10, 20, 30, 40)]}
    assert "has no name" in dataset.problems[0].message


def test_without_categories_classes_are_numbers(tmp_path):
    dataset = read(tmp_path, categories=[])
    assert dataset.class_names == ("3",)
    assert "no categories" in dataset.remarks[0]


@pytest.mark.parametrize("name", ["b.png", "a.png"])
def test_ids_that_are_there_twice(tmp_path, name):
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png")
    write_picture(tmp_path / "c.png", colour=(90, 20, 200))
    images = [IMAGE, {"id": "1", "file_name": name}, {"id": 2, "file_name": "c.png"}]
    categories = [{"id": 3, "name": "ant"}, {"id": "3", "name": "bee"}]
    dataset = open_dataset(write_coco(tmp_path / "x.json", images, [ANNOTATION, ANNOTATION], categories), None)
    kinds = [problem.kind.value for problem in dataset.problems]
    if name == "a.png":
        assert boxes_of(dataset) == {**BOX, "c.png": []}
        assert kinds == ["duplicate picture", "broken label", "duplicate box"]
    else:  # the boxes could be either picture's
        assert boxes_of(dataset) == {"c.png": []}
        assert kinds == ["duplicate picture", "broken label", "broken label"]
        assert "2 boxes of image id 1, which is there twice" in dataset.problems[2].message


def test_only_pictures_with_ids_that_are_there_twice(tmp_path):
    write_picture(tmp_path / "a.png")
    images = [IMAGE, {"id": "1", "file_name": "b.png"}]
    with pytest.raises(DataError, match="has no usable picture"):
        open_dataset(write_coco(tmp_path / "x.json", images, [ANNOTATION]), None)


def test_pictures_of_another_data_set_are_not_taken(tmp_path):
    for labels in ("labels.json", None):
        write_coco(tmp_path / "A/labels.json", annotations=[ANNOTATION])
        write_picture(tmp_path / "B/a.png")
        write_text(tmp_path / "B" / (labels or "readme.txt"), "{}")
        if labels is None:
            (tmp_path / "B/labels.json").unlink()
            write_picture(tmp_path / "A/other.png")
        for path in (tmp_path / "A", tmp_path / "A/labels.json"):
            with pytest.raises(DataError, match=r"no picture of .*labels\.json found"):
                open_dataset(path, None)


@pytest.mark.parametrize("picture", ["images/a.png", "labels/a.png", "frames/a.png"])
def test_pictures_beside_the_folder_of_labels_are_remarked_on(tmp_path, picture):
    write_picture(tmp_path / picture)
    write_coco(tmp_path / "export/labels.json", annotations=[ANNOTATION])
    dataset = open_dataset(tmp_path / "export/labels.json", None)
    assert boxes_of(dataset) == BOX
    assert f"they are taken from {(tmp_path / picture).parent}" in dataset.remarks[0]


def test_a_data_set_called_coco_is_no_folder_of_labels(tmp_path):
    write_coco(tmp_path / "coco/labels.json", [IMAGE, {"id": 2, "file_name": "b.png"}], [ANNOTATION])
    write_picture(tmp_path / "coco/a.png")
    write_picture(tmp_path / "other/b.png")
    (problem,) = open_dataset(tmp_path / "coco/labels.json", None).problems
    assert problem.kind is ProblemKind.MISSING_PICTURE


def test_pictures_in_the_folder_of_another_part_are_remarked_on(tmp_path):
    write_picture(tmp_path / "train/a.png")
    write_coco(tmp_path / "annotations/val.json", annotations=[ANNOTATION])
    dataset = open_dataset(tmp_path, "val")
    assert boxes_of(dataset) == BOX
    assert f"{tmp_path}/train, which is named after another" in dataset.remarks[0]


def test_pictures_of_another_part_are_not_taken(tmp_path):
    for split in ("train", "valid"):
        write_picture(tmp_path / split / f"{split}.png")
        images = [{**IMAGE, "file_name": f"{split}.png"}, {"id": 2, "file_name": "valid.png"}]
        write_coco(
            tmp_path / split / "_annotations.coco.json", images if split == "train" else images[1:], [ANNOTATION]
        )
    dataset = open_dataset(tmp_path, "train")
    assert list(boxes_of(dataset)) == ["train.png"]
    assert [problem.kind for problem in dataset.problems] == [ProblemKind.MISSING_PICTURE]


def test_annotations_inside_of_images(tmp_path):
    image = {**IMAGE, "annotations": [{"bbox": [10, 20, 20, 20], "category_id": 3}]}
    assert boxes_of(read(tmp_path, image, {"image_id": 5})) == BOX


def test_boxes_that_are_elsewhere_are_asked_for(tmp_path):
    write_picture(tmp_path / "a.png")
    dataset = open_dataset(write_coco(tmp_path / "x.json", [{**IMAGE, "regions": []}]), None)
    assert "has no annotations: its images have id, file_name, width, height, regions" in dataset.remarks[0]


def test_parts_whose_names_tell_nothing_are_named(tmp_path):
    write_picture(tmp_path / "images/a.png")
    for name in ("train", "eval", "person_keypoints_train"):
        write_coco(tmp_path / f"annotations/{name}.json", annotations=[ANNOTATION])
    assert open_dataset(tmp_path).remarks == ("JSON files that are read as no part: eval.json",)


def test_two_entries_of_one_picture_are_joined(tmp_path):
    write_picture(tmp_path / "a.png")
    images = [IMAGE, {"id": 2, "file_name": "./a.png"}]
    other = {**ANNOTATION, "image_id": 2, "bbox": [1, 2, 3, 4]}
    dataset = open_dataset(write_coco(tmp_path / "x.json", images, [ANNOTATION, other]), None)
    assert boxes_of(dataset) == {"a.png": [*BOX["a.png"], ("ant", 1, 2, 4, 6)]}
    assert "whose boxes are joined: 1" in dataset.remarks[0]
    assert not dataset.problems


def test_fractions_are_no_pixels(tmp_path):
    write_picture(tmp_path / "a.png")
    boxes = [{**ANNOTATION, "bbox": box} for box in ([0.1, 0.25, 0.3, 0.5], [0, 0, 1, 1], [0.5, 0.5, 0.25, 0.25])]
    file = write_coco(tmp_path / "x.json", annotations=boxes)
    with pytest.raises(DataError, match=r"look like fractions of the picture, such as .*x\.json:\d+") as caught:
        open_dataset(file, None)
    assert "\n" not in str(caught.value)
    dataset = open_dataset(write_coco(file, annotations=[ANNOTATION, boxes[0]]), None)
    assert boxes_of(dataset) == BOX
    assert "looks like fractions of the picture" in dataset.problems[0].message
    assert len(open_dataset(write_coco(file, annotations=[boxes[1]]), None).records[0].boxes) == 1


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path, encoding):
    read(tmp_path)
    file = tmp_path / "labels.json"
    file.write_bytes(file.read_text().encode(encoding))
    assert boxes_of(open_dataset(tmp_path, None)) == BOX


@pytest.mark.parametrize(
    ("labels", "picture", "split"),
    [
        ("annotations/instances_default.json", "images/a.png", None),
        ("annotations/instances_default.json", "images/default/a.png", None),
        ("annotations/instances_Train.json", "images/Train/a.png", "train"),
        ("annotations/instances_Validation.json", "images/Validation/a.png", "val"),
        ("result.json", "images/a.png", None),
        ("labels.json", "data/a.png", None),
        ("train/_annotations.coco.json", "train/a.png", "train"),
        ("Valid/_annotations.coco.json", "Valid/a.png", "val"),
        ("train/labels.json", "train/data/a.png", "train"),
        ("train/annotations/coco.json", "train/images/a.png", "train"),
        ("annotations/train_annotations.json", "images/a.png", "train"),
        ("annotations/coco_val.json", "val/a.png", "val"),
        ("Annotations/test.json", "Images/a.png", "test"),
        ("labels/instances_train2017.json", "images/train2017/a.png", "train"),
    ],
)
def test_layouts_of_tools(tmp_path, labels, picture, split):
    write_picture(tmp_path / picture)
    write_coco(tmp_path / labels, annotations=[ANNOTATION])
    write_text(tmp_path / "notes.json", '{"info": {"version": "1.0"}, "categories": []}')
    write_text(tmp_path / "._labels.json", "\0\5\x16\7")
    write_text(tmp_path / "__MACOSX/annotations/x.json", "{}")
    source = recognise(tmp_path)
    assert (source.format, source.splits) == ("coco", (split,) if split else ())
    assert boxes_of(source.open(split)) == BOX


def test_keypoints_and_captions_beside_instances_are_passed_over(tmp_path):
    write_picture(tmp_path / "train2017/a.png")
    for name in ("captions", "instances", "person_keypoints"):
        write_coco(
            tmp_path / f"annotations/{name}_train2017.json", annotations=[ANNOTATION] if name == "instances" else []
        )
    assert boxes_of(open_dataset(tmp_path, "train")) == BOX


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("[]", "is a JSON list"),
        ('[{"a": 1}]', "is a JSON list of objects with a"),
        ("[[1], [2]]", r"is a JSON list that begins with \[1\]"),
        ('{"image": "a.png"}\n{"image": "b.png"}\n', "JSON Lines"),
        ('{"via_img_metadata": {}, "via_settings": {}}', "it has via_img_metadata, via_settings"),
        ("{" + ", ".join(f'"picture_{n:05}.png": {{"regions": []}}' for n in range(500)) + "}", "and 494 more"),
        ('{"images": ' + "[" * 100_000, "nested too deeply"),
        ("[" * 100_000, "nested too deeply"),
        ('{"images": nope}', "labels.json:1: not valid JSON"),
        ("\ud83d".encode("utf-16-le", "surrogatepass").decode("latin-1"), "not valid JSON|UTF-8"),
        ("5", "not valid JSON"),
        ('{"images": [{"id": ' + "9" * 10_000 + ', "file_name": "a"}]}', "has no categories"),
    ],
)
def test_what_is_not_coco_is_told_in_a_short_line(tmp_path, text, pattern):
    file = write_text(tmp_path / "labels.json", text)
    for path in (file, tmp_path):
        with pytest.raises(DataError, match=pattern) as caught:
            open_dataset(path, None)
        message = str(caught.value).replace(str(tmp_path), "")
        assert "\n" not in message
        assert len(message) < 400


def test_pictures_found_by_name_are_remarked_on(tmp_path):
    dataset = read(tmp_path, {"file_name": "../server/upload/a.png"}, picture="images/a.png")
    assert "found by name, not where the labels say: 1 of 1 pictures" in dataset.remarks[0]


def test_a_picture_that_could_be_any_of_several_is_left_out(tmp_path):
    for folder in ("one", "two"):
        write_picture(tmp_path / folder / "b.png")
    images = [IMAGE, {"id": 2, "file_name": "x/b.png"}]
    write_picture(tmp_path / "a.png")
    (problem,) = open_dataset(write_coco(tmp_path / "x.json", images), None).problems
    assert problem.kind is ProblemKind.MISSING_PICTURE
    assert "b.png could be any of" in problem.message


def test_problems_without_end_are_counted_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(Findings, "MOST_KEPT", 5)
    write_picture(tmp_path / "a.png")
    boxes = [{**ANNOTATION, "bbox": [n, 1, 0, 0]} for n in range(20)]
    dataset = open_dataset(write_coco(tmp_path / "x.json", annotations=[*boxes, ANNOTATION]), None)
    assert len(dataset.problems) == 6
    assert sum(problem.times for problem in dataset.problems) == 20
    assert "and 15 more" in str(dataset.problems[-1])
    monkeypatch.setattr(Findings, "MOST_BROKEN", 10)
    with pytest.raises(DataError, match=r"x\.json: more than 10 entries can't be read"):
        open_dataset(write_coco(tmp_path / "x.json", annotations=[{}] * 20), None)

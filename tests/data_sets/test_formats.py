import json

import numpy as np
import pytest
from dataset_files import make_record, write_coco, write_picture

from dfine_jax.data.formats import open_dataset, recognise
from dfine_jax.data.samples import DataError, Dataset, ProblemKind
from dfine_jax.data.write import write_dataset


def assert_same(read: Dataset, written: Dataset, *, crowds: bool) -> None:
    assert read.class_names == written.class_names
    assert len(read) == len(written)
    for there, here in zip(read.records, written.records, strict=True):
        np.testing.assert_allclose(there.boxes, here.boxes, atol=1e-4)
        np.testing.assert_array_equal(there.labels, here.labels)
        np.testing.assert_allclose(there.areas, here.areas, rtol=1e-5)
        np.testing.assert_array_equal(there.pixels(), here.pixels())
        assert (there.width, there.height) == (here.width, here.height)
        np.testing.assert_array_equal(there.crowd_boxes, here.crowd_boxes if crowds else np.zeros((0, 4)))
    assert read.most_boxes == 2
    assert not read.problems


@pytest.mark.parametrize(("format", "crowds"), [("coco", True), ("voc", True), ("yolo", False)])
def test_what_is_written_is_read(tiny, tmp_path, format, crowds):
    write_dataset(tiny, tmp_path, format, "train")
    write_dataset(tiny, tmp_path, format, "val")
    source = recognise(tmp_path)
    assert (source.format, source.splits) == (format, ("train", "val"))
    assert_same(open_dataset(tmp_path, "val"), tiny, crowds=crowds)
    assert recognise(tmp_path).open("train").sample(0).picture.shape == (48, 64, 3)


def test_coco_keeps_ids_with_gaps_and_areas(tiny, tmp_path):
    write_dataset(tiny, tmp_path, "coco", "val")
    read = open_dataset(tmp_path, "val")
    assert read.category_ids == (3, 7, 90)
    assert [record.image_id for record in read.records] == [5, 9, 12]
    assert read.records[2].crowd_labels.tolist() == [1]
    assert read.records[2].crowd_areas.tolist() == [551]


def test_coco_labels_follow_the_ids_not_the_order_in_the_file(tmp_path):
    write_picture(tmp_path / "a.png")
    box = {"id": 1, "image_id": 1, "category_id": 2, "bbox": [1, 2, 10, 20], "area": 33.5}
    categories = [{"id": 8, "name": "late"}, {"id": 2, "name": "early"}, {"id": 5, "name": "unused"}]
    read = open_dataset(write_coco(tmp_path / "labels.json", annotations=[box], categories=categories), None)
    assert read.class_names == ("early", "unused", "late")
    assert read.records[0].labels.tolist() == [0]
    assert read.records[0].areas.tolist() == [33.5]
    np.testing.assert_array_equal(read.records[0].boxes, [[1, 2, 11, 22]])


@pytest.mark.parametrize(
    ("labels", "pictures"),
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/val.json", "images"),
        ("annotations/instances_valid.json", "valid"),
        ("val.json", "val"),
        ("valid/_annotations.coco.json", "valid"),
    ],
)
def test_common_coco_layouts(tmp_path, labels, pictures):
    write_picture(tmp_path / pictures / "a.png")
    write_coco(tmp_path / labels)
    source = recognise(tmp_path)
    assert (source.format, source.splits) == ("coco", ("val",))
    assert open_dataset(tmp_path, "val").records[0].picture == tmp_path / pictures / "a.png"


@pytest.mark.parametrize(
    ("train", "names"),
    [("images/train", "[ant, bee]"), ("../images/train", "{0: ant, 1: bee}"), ("[train.txt]", "{1: bee, 0: ant}")],
)
def test_yolo_splits_and_names(tmp_path, train, names):
    write_picture(tmp_path / "images/train/a.png", (100, 50))
    write_picture(tmp_path / "images/train/deep/b.png", (100, 50))
    (tmp_path / "labels/train").mkdir(parents=True)
    (tmp_path / "labels/train/a.txt").write_text("1 0.5 0.5 0.2 0.4\n\n0 0.1 0.2 0.3 0.2 0.3 0.6 0.2 0.8\n")
    (tmp_path / "train.txt").write_text("./images/train/a.png\nimages/train/deep/b.png\n")
    (tmp_path / "data.yaml").write_text(f"train: {train}\nnames: {names}\nnc: 2\n")
    read = open_dataset(tmp_path / "data.yaml", "train")
    assert read.class_names == ("ant", "bee")
    np.testing.assert_allclose(read.records[0].boxes, [[40, 15, 60, 35], [10, 10, 30, 40]], atol=1e-5)
    assert read.records[0].labels.tolist() == [1, 0]
    assert len(read.records[1].boxes) == 0  # no file of labels means no boxes
    assert not read.problems


def test_yolo_path_moves_the_root(tmp_path):
    write_picture(tmp_path / "pictures/val/a.png")
    (tmp_path / "set.yaml").write_text("path: pictures\nval: val\nnames: [ant]\n")
    assert open_dataset(tmp_path, "val").records[0].picture == tmp_path / "pictures/val/a.png"


def voc_xml(name: str, objects: str) -> str:
    return f"<annotation>\n<filename>{name}</filename>\n{objects}\n</annotation>"


OBJECT = (
    "<object><name>{name}</name><difficult>{difficult}</difficult>"
    "<bndbox><xmin>3</xmin><ymin>4</ymin><xmax>13</xmax><ymax>24</ymax></bndbox></object>"
)


def test_voc_classes_come_from_all_splits(tmp_path):
    for stem, name in (("a", "cow"), ("b", "ant")):
        write_picture(tmp_path / f"JPEGImages/{stem}.png")
        (tmp_path / "Annotations").mkdir(exist_ok=True)
        (tmp_path / f"Annotations/{stem}.xml").write_text(voc_xml("wrong", OBJECT.format(name=name, difficult=0)))
    (tmp_path / "ImageSets/Main").mkdir(parents=True)
    (tmp_path / "ImageSets/Main/train.txt").write_text("a 1\n")
    (tmp_path / "ImageSets/Main/test.txt").write_text("b\n")
    assert recognise(tmp_path).splits == ("train", "test")
    read = open_dataset(tmp_path, "train")
    assert read.class_names == ("ant", "cow")
    assert read.records[0].labels.tolist() == [1]
    np.testing.assert_array_equal(read.records[0].boxes, [[3, 4, 13, 24]])


def test_voc_beside_the_pictures_and_difficult_objects_apart(tmp_path):
    write_picture(tmp_path / "valid/a.png")
    objects = OBJECT.format(name="ant", difficult=0) + OBJECT.format(name="bee", difficult=1)
    (tmp_path / "valid/a.xml").write_text(voc_xml("a.png", objects))
    record = open_dataset(tmp_path, "val").records[0]
    assert (record.labels.tolist(), record.crowd_labels.tolist()) == ([0], [1])


def test_shapes_by_name():
    source = recognise("shapes:size=48,count=3,seed=5")
    assert source.splits == ("train", "val", "test")
    read = source.open("val")
    assert len(read) == 3
    assert read.sample(2).picture.shape == (48, 48, 3)
    assert len(open_dataset("shapes", "train")) > len(open_dataset("shapes", "val")) == 1000
    with pytest.raises(DataError, match=r"'colour=3'.*size=N"):
        recognise("shapes:colour=3")


@pytest.mark.parametrize(
    ("split", "message"), [(None, "has the splits train, val: name one"), ("test", "no test split")]
)
def test_the_split_must_be_there(tiny, tmp_path, split, message):
    for there in ("train", "val"):
        write_dataset(tiny, tmp_path, "coco", there)
    with pytest.raises(DataError, match=message):
        open_dataset(tmp_path, split)


def test_a_single_file_has_no_splits(tmp_path):
    write_picture(tmp_path / "a.png")
    write_coco(tmp_path / "labels.json")
    assert recognise(tmp_path).splits == ()
    with pytest.raises(DataError, match=r"no train split .*in one piece"):
        open_dataset(tmp_path, "train")


def test_exif_orientation_is_applied_unless_the_labels_say_otherwise(tmp_path):
    from PIL import Image

    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :10] = 255  # the left quarter, which is at the top once turned upright
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    for size, expected in (((20, 40), (40, 20, 3)), ((40, 20), (20, 40, 3)), ((0, 0), (40, 20, 3))):
        image = {"id": 1, "file_name": "a.png", "width": size[0], "height": size[1]}
        read = open_dataset(write_coco(tmp_path / "labels.json", images=[image]), None)
        picture = read.sample(0).picture
        assert picture.shape == expected == (read.records[0].height, read.records[0].width, 3)
        assert not read.problems
        assert (picture[:10] == 255).all() if expected[0] == 40 else (picture[:, :10] == 255).all()
    image = {"id": 1, "file_name": "a.png", "width": 99, "height": 20}
    read = open_dataset(write_coco(tmp_path / "labels.json", images=[image]), None)
    assert [problem.kind for problem in read.problems] == [ProblemKind.WRONG_SIZE]


def test_writing_keeps_the_file_of_a_picture(tmp_path):
    path = write_picture(tmp_path / "from/x.JPG")
    dataset = Dataset(("ant",), (1,), [make_record(1, [], [])], 0)
    record = open_dataset(_coco_of(tmp_path, path), None).records[0]
    write_dataset(Dataset(dataset.class_names, (1,), [record], 0), tmp_path / "to", "yolo", "test")
    copy = tmp_path / "to/images/test/test_000001.jpg"
    assert copy.read_bytes() == path.read_bytes()
    assert json.loads(json.dumps(open_dataset(tmp_path / "to", "test").class_names)) == ["ant"]


def _coco_of(folder, picture):
    image = {"id": 1, "file_name": picture.name, "width": 64, "height": 48}
    return write_coco(picture.parent / "labels.json", images=[image])

"""Pascal VOC as tools and people leave it."""

import math

import pytest
from dataset_files import boxes_of, write_picture, write_text

from dfine_jax.data.formats import open_dataset, recognise
from dfine_jax.data.samples import DataError, EmptyPartError, ProblemKind

CORNERS = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>30</xmax><ymax>40</ymax></bndbox>"
BOX = {"a.png": [("ant", 10, 20, 30, 40)]}


def xml(
    place=CORNERS,
    name="ant",
    filename="a.png",
    extra="<difficult>0</difficult>",
    size="<width>64</width><height>48</height>",
):
    return (
        f"<annotation>\n<filename>{filename}</filename><size>{size}</size>\n"
        f"<object><name>{name}</name>{extra}{place}</object>\n</annotation>\n"
    )


def write_set(
    folder, text: str | bytes | None = None, *, picture="JPEGImages/a.png", labels="Annotations/a.xml", **others
):
    write_picture(folder / picture)
    file = write_text(folder / labels, "")
    text = xml(**others) if text is None else text
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def points(tag, pairs):
    return f"<{tag}>" + "".join(f"<x{n}>{x}</x{n}><y{n}>{y}</y{n}>" for n, (x, y) in enumerate(pairs, 1)) + f"</{tag}>"


def rotated(width, height, angle):
    return f"<robndbox><cx>20</cx><cy>30</cy><w>{width}</w><h>{height}</h><angle>{angle}</angle></robndbox>"


@pytest.mark.parametrize(
    "place",
    [
        CORNERS,
        CORNERS.replace("10<", "10.2<").replace("40<", " 4.0e1 <"),
        "<bndbox><xmax>30</xmax><ymax>40</ymax><xmin>10</xmin><ymin>20</ymin></bndbox>",
        "<bndbox><xmin>30</xmin><ymin>40</ymin><xmax>10</xmax><ymax>20</ymax></bndbox>",
        "<bndbox><Xmin>10</Xmin><Ymin>20</Ymin><Xmax>30</Xmax><Ymax>40</Ymax></bndbox>",
        "<bndbox><x>10</x><y>20</y><width>20</width><height>20</height></bndbox>",
        points("polygon", [(10, 20), (30, 20), (30, 40), (12, 38)]),
        "<polygon><pt><x>10</x><y>20</y></pt><pt><x>30</x><y>40</y></pt></polygon>",
        "<polygon>10,20 30,20 30,40</polygon>",
        "<polygon><point>10,20</point><point>30,40</point></polygon>",
        "<box><xmin>10</xmin><ymin>20</ymin><xmax>30</xmax><ymax>40</ymax></box>",
        rotated(20, 20, 0).replace("robndbox", "rbox"),
        points("segment", [(10, 20), (30, 40)]),
        points("points", [(10, 40), (30, 20)]),
        rotated(20, 20, 0),
        rotated(20, 20, math.pi / 2),
        rotated(math.sqrt(200), math.sqrt(200), math.pi / 4),
        rotated(20, 20, 90),
        rotated(20, 20, -180),
        CORNERS.replace("10<", "10,2<"),
        CORNERS + points("polygon", [(1, 1), (60, 40)]),
        "<part><name>leg</name><bndbox><xmin>1</xmin></bndbox></part>" + CORNERS,
    ],
)
def test_boxes_and_what_is_there_instead(tmp_path, place):
    dataset = open_dataset(write_set(tmp_path, place=place), None)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


def test_swapped_corners_are_remarked_on(tmp_path):
    place = "<bndbox><xmin>30</xmin><ymin>20</ymin><xmax>10</xmax><ymax>40</ymax></bndbox>"
    assert "top and bottom swapped: 1, such as" in open_dataset(write_set(tmp_path, place=place), None).remarks[0]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("", "no bndbox"),
        ("<mask>1</mask>", "no bndbox, but mask"),
        ("<bndbox/>", "bndbox without xmin"),
        (CORNERS.replace("<xmax>30</xmax>", ""), "bndbox without xmax"),
        (CORNERS.replace("30", "wide"), "'wide' is no number"),
        (CORNERS.replace("30", ""), "None is no number"),
        (CORNERS.replace("30", "1e999"), "no finite number"),
        (CORNERS.replace("30", "9" * 1000), "no finite number"),
        ("<polygon/>", "encloses nothing"),
        ("<polygon><x1>3</x1></polygon>", "None is no number"),
        ("<robndbox><cx>3</cx></robndbox>", "None is no number"),
    ],
)
def test_objects_without_a_box(tmp_path, place, said):
    write_set(tmp_path, xml(place).replace("</annotation>", f"<object><name>ant</name>{CORNERS}</object></annotation>"))
    dataset = open_dataset(tmp_path, None)
    assert boxes_of(dataset) == BOX
    (problem,) = dataset.problems
    assert (problem.kind, problem.file.name, problem.line) == (ProblemKind.BROKEN_LABEL, "a.xml", 3)
    assert said in problem.message
    assert len(problem.message) < 300


@pytest.mark.parametrize(
    ("extra", "crowd"),
    [("", 0), ("<difficult/>", 0), ("<difficult>false</difficult>", 0), ("<difficult>Unspecified</difficult>", 0)]
    + [(f"<difficult>{word}</difficult>", 1) for word in ("1", " 1 ", "true", "Yes", "1.0")],
)
def test_difficult_objects(tmp_path, extra, crowd):
    record = open_dataset(write_set(tmp_path, extra=extra), None).records[0]
    assert len(record.crowd_boxes) == crowd


@pytest.mark.parametrize(
    "size",
    [
        "",
        "<width/><height/>",
        "<width>0</width><height>0</height>",
        "<width>x</width>",
        "<width>64.0</width><height>48</height>",
    ],
)
def test_sizes_that_are_not_stated(tmp_path, size):
    assert not open_dataset(write_set(tmp_path, size=size), None).problems


@pytest.mark.parametrize(
    ("picture", "filename"),
    [
        ("JPEGImages/a.png", ""),
        ("JPEGImages/a.png", "a"),
        ("JPEGImages/a.png", "a.jpg"),
        ("JPEGImages/a.png", r"C:\Users\me\a.png"),
        ("JPEGImages/a.png", "/home/me/pictures/a.png"),
        ("JPEGImages/a.png", "another.png"),
        ("JPEGImages/a.jfif", "a"),
        ("JPEGImages/a.PNG", "a.png"),
        ("JPEGImages/a.ppm", ""),
        ("JPEGImages/b.png", "b.png"),
        ("JPEGImages/b.png", "B.jpg"),
        ("images/a.png", "a.png"),
        ("Images/deep/a.png", "a.png"),
        ("a.png", "a.png"),
        ("Annotations/a.png", "a.png"),
    ],
)
def test_the_picture_of_a_file(tmp_path, picture, filename):
    path = write_picture(tmp_path / "x.png")
    (tmp_path / picture).parent.mkdir(parents=True, exist_ok=True)
    kind = {"jfif": "JPEG"}.get(picture.rpartition(".")[2])
    from PIL import Image

    with Image.open(path) as image:
        image.save(tmp_path / picture, format=kind)
    path.unlink()
    write_text(tmp_path / "Annotations/a.xml", xml(filename=filename))
    dataset = open_dataset(tmp_path, None)
    assert [record.picture for record in dataset.records] == [tmp_path / picture]
    assert len(dataset.records[0].boxes) == 1
    assert not dataset.problems


def test_capitals_and_objects_that_were_removed(tmp_path):
    text = xml().replace("object>", "Object>").replace("name>", "Name>").replace("bndbox>", "BndBox>")
    gone = f"<object><name>bee</name><deleted>1</deleted>{CORNERS}</object></annotation>"
    text = text.replace("<annotation>", "\n\n<?xml version='1.0'?>\n<Annotation>").replace("</annotation>", gone)
    dataset = open_dataset(write_set(tmp_path, text.replace("</annotation>", "</Annotation>")), None)
    assert boxes_of(dataset) == BOX
    assert (dataset.class_names, dataset.problems) == (("ant",), ())


@pytest.mark.parametrize("filename", ["a.png", "", "JPEGImages/{}/a.png", "x/a.png"])
def test_pictures_of_one_name_in_several_folders(tmp_path, filename):
    for folder in "xy":
        write_set(
            tmp_path,
            picture=f"JPEGImages/{folder}/a.png",
            labels=f"Annotations/{folder}/a.xml",
            name=folder,
            filename=filename.format(folder),
        )
    dataset = open_dataset(tmp_path, None)
    found = {record.picture.parent.name: dataset.class_names[record.labels[0]] for record in dataset.records}
    assert found == {"x": "x", "y": "y"}
    assert not dataset.problems
    for name, row in (("train", "y/a"), ("val", "JPEGImages/x/a.png")):
        lists(tmp_path, row, name)
    assert [open_dataset(tmp_path, split).records[0].picture.parent.name for split in ("train", "val")] == ["y", "x"]


@pytest.mark.parametrize("copied", ["a.png", "c.png"])
def test_names_that_were_copied_from_another_file(tmp_path, copied):
    for stem, filename in (("a", copied), ("b", copied)):
        write_set(
            tmp_path, picture=f"JPEGImages/{stem}.png", labels=f"Annotations/{stem}.xml", name=stem, filename=filename
        )
    write_picture(tmp_path / "JPEGImages/c.png")
    assert boxes_of(open_dataset(tmp_path, None)) == {f"{stem}.png": [(stem, 10, 20, 30, 40)] for stem in "ab"}


def test_pictures_without_labels_are_said(tmp_path):
    write_picture(tmp_path / "JPEGImages/b.png")
    dataset = open_dataset(write_set(tmp_path), None)
    assert dataset.remarks == (
        f"pictures without a label file, which are left out: 1, such as {tmp_path}/JPEGImages/b.png",
    )
    lists(tmp_path, "a")
    assert not open_dataset(tmp_path).remarks


def test_a_name_that_leads_out_of_the_data_set_leads_nowhere(tmp_path):
    write_picture(tmp_path / "secret.png")
    write_text(tmp_path / "set/Annotations/a.xml", xml(filename="../../secret.png"))
    with pytest.raises(EmptyPartError, match="no usable picture"):
        open_dataset(write_set(tmp_path / "set", picture="JPEGImages/other.png", filename="../../secret.png"), None)


def lists(folder, text, name="train"):
    write_text(folder / f"ImageSets/Main/{name}.txt", text)


@pytest.mark.parametrize(
    ("stem", "row"),
    [
        ("a", "a"),
        ("a", "a.png"),
        ("a", "a.jpg"),
        ("a", "a.xml"),
        ("a", "a 1"),
        ("a", "a  -1"),
        ("a", "a.png 1"),
        ("a", "JPEGImages/a.png"),
        ("a", r"JPEGImages\a.png"),
        ("a", "JPEGImages/a.png Annotations/a.xml"),
        ("a", "/home/me/a.png"),
        ("a", "\ufeffa"),
        ("a", "A"),
        ("leaf 0 (1)", "leaf 0 (1)"),
        ("leaf 0 (1)", "leaf 0 (1).png"),
        ("leaf 0 (1)", "leaf 0 (1) 1"),
        ("x.y", "x.y"),
        ("x.y", "x.y.png"),
    ],
)
def test_rows_of_lists(tmp_path, stem, row):
    write_set(tmp_path, picture=f"JPEGImages/{stem}.png", labels=f"Annotations/{stem}.xml", filename=f"{stem}.png")
    write_set(tmp_path, picture="JPEGImages/other.png", labels="Annotations/other.xml", filename="other.png")
    lists(tmp_path, f"{row}\r\n\r\n")
    lists(tmp_path, "other\n", "ant_train")
    dataset = open_dataset(tmp_path, "train")
    assert boxes_of(dataset) == {f"{stem}.png": BOX["a.png"]}
    assert recognise(tmp_path).splits == ("train",)
    assert not dataset.problems


def test_trainval_stands_for_train_less_what_others_have(tmp_path):
    for stem in "abc":
        write_set(tmp_path, picture=f"JPEGImages/{stem}.png", labels=f"Annotations/{stem}.xml", filename=f"{stem}.png")
    lists(tmp_path, "a\nb\n", "trainval")
    lists(tmp_path, "c\n", "test")
    assert recognise(tmp_path).splits == ("train", "test")
    assert list(boxes_of(open_dataset(tmp_path, "train"))) == ["a.png", "b.png"]
    lists(tmp_path, "b\n", "val")
    assert list(boxes_of(open_dataset(tmp_path, "train"))) == ["a.png"]
    lists(tmp_path, "b\n", "train")
    assert list(boxes_of(open_dataset(tmp_path, "train"))) == ["b.png"]


def test_a_listed_file_that_is_missing_is_one_problem(tmp_path):
    lists(write_set(tmp_path), "a\nghost\n")
    (problem,) = open_dataset(tmp_path).problems
    assert problem.file.name == "ghost.xml"


def test_an_empty_list_is_an_empty_part(tmp_path):
    lists(write_set(tmp_path), "a\n")
    lists(tmp_path, "\n", "val")
    with pytest.raises(EmptyPartError, match="no usable picture"):
        open_dataset(tmp_path, "val")


@pytest.mark.parametrize(
    ("picture", "labels", "split"),
    [
        ("images/a.png", "annotations/a.xml", None),
        ("Images/a.png", "Annotation/a.xml", None),
        ("imgs/a.png", "xml/a.xml", None),
        ("images/a.png", "annotations/xmls/a.xml", None),
        ("a.png", "a.xml", None),
        ("train/a.png", "train/a.xml", "train"),
        ("Validation/a.png", "Validation/a.xml", "val"),
        ("train/JPEGImages/a.png", "train/Annotations/a.xml", "train"),
        ("train/images/a.png", "train/annotations/a.xml", "train"),
        ("JPEGImages/train/a.png", "Annotations/train/a.xml", "train"),
        ("images/a.png", "annotations/test/a.xml", "test"),
        ("JPEGImages/sub/a.png", "Annotations/sub/a.xml", None),
        ("VOC2007/JPEGImages/a.png", "VOC2007/Annotations/a.xml", None),
        ("VOCdevkit/VOC2012/JPEGImages/a.png", "VOCdevkit/VOC2012/Annotations/a.xml", None),
        ("deep/er/JPEGImages/a.png", "deep/er/Annotations/a.xml", None),
    ],
)
def test_layouts(tmp_path, picture, labels, split):
    write_set(tmp_path, picture=picture, labels=labels)
    for name in ("Annotations/._a.xml", "JPEGImages/._a.png", "train/._a.xml", "__MACOSX/a.xml"):
        if (tmp_path / name).parent.is_dir() or name.startswith("__"):
            write_text(tmp_path / name, "\0\5\x16\7")
    source = recognise(tmp_path)
    assert (source.format, source.splits) == ("voc", (split,) if split else ())
    dataset = source.open(split)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


def test_lists_beside_the_labels(tmp_path):
    for stem in "ab":
        write_set(tmp_path, picture=f"images/{stem}.png", labels=f"annotations/xmls/{stem}.xml", filename=f"{stem}.png")
    write_text(tmp_path / "annotations/trainval.txt", "a 1 1 1\n")
    write_text(tmp_path / "annotations/test.txt", "b 2 1 1\n")
    assert list(boxes_of(open_dataset(tmp_path, "train"))) == ["a.png"]
    assert list(boxes_of(open_dataset(tmp_path, "test"))) == ["b.png"]


def test_json_beside_xml_is_passed_over(tmp_path):
    write_text(tmp_path / "annotations/settings.json", "{}")
    write_text(tmp_path / "config/settings.json", "{}")
    assert boxes_of(open_dataset(write_set(tmp_path, labels="xml/a.xml"), None)) == BOX


def test_several_years_are_one_data_set(tmp_path):
    for year, name in (("VOC2007", "ant"), ("VOC2012", "bee")):
        root = tmp_path / "VOCdevkit" / year
        write_set(
            root, picture=f"JPEGImages/{name}.png", labels=f"Annotations/{name}.xml", filename=f"{name}.png", name=name
        )
        lists(root, name)
    for path in (tmp_path, tmp_path / "VOCdevkit"):
        dataset = open_dataset(path, "train")
        assert list(boxes_of(dataset)) == ["ant.png", "bee.png"]
        assert [record.image_id for record in dataset.records] == [1, 2]
        assert dataset.class_names == ("ant", "bee")


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("gb2312", "圆"), ("shift_jis", "円"), ("utf-16", "圆"), ("latin-1", "Äs"), ("cp1251", "круг")],
)
def test_encodings_that_are_declared(tmp_path, encoding, name):
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n' + xml(name=name)
    assert boxes_of(open_dataset(write_set(tmp_path, text.encode(encoding)), None)) == {
        "a.png": [(name, 10, 20, 30, 40)]
    }


def test_what_can_t_be_decoded_costs_one_file(tmp_path):
    write_set(tmp_path, b'<?xml version="1.0" encoding="klingon"?>\n<annotation>\xff</annotation>')
    write_set(tmp_path, picture="JPEGImages/b.png", labels="Annotations/b.xml", filename="b.png")
    dataset = open_dataset(tmp_path, None)
    assert list(boxes_of(dataset)) == ["b.png"]
    assert "klingon" in dataset.problems[0].message


BOMB = (
    '<!DOCTYPE a [<!ENTITY a "ha">'
    + "".join(f'<!ENTITY {two} "{f"&{one};" * 10}">' for one, two in zip("abcdefghi", "bcdefghij", strict=True))
    + "]>"
)


@pytest.mark.parametrize(
    "text",
    [
        BOMB + "<annotation>&j;</annotation>",
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
        "<annotation>" + "<a>" * 100_000,
        "<annotation>" + "<object/>" * 60_000 + "</annotation>",
        "<annotation>\0</annotation>",
        "<annotation>",
        "",
    ],
)
def test_hostile_files_cost_one_picture(tmp_path, monkeypatch, text):
    monkeypatch.setattr("dfine_jax.data.voc.MOST_ELEMENTS", 50_000)
    write_set(tmp_path, text)
    write_set(tmp_path, picture="JPEGImages/b.png", labels="Annotations/b.xml", filename="b.png")
    dataset = open_dataset(tmp_path, None)
    assert list(boxes_of(dataset)) == ["b.png"]
    assert [problem.file.name for problem in dataset.problems] == ["a.xml"]


@pytest.mark.parametrize("names", [("circle", "Circle"), ("traffic light", "Traffic_Light")])
def test_two_spellings_are_one_class(tmp_path, names):
    for stem, name in zip("ab", names, strict=True):
        write_set(tmp_path, picture=f"{stem}.png", labels=f"{stem}.xml", filename=f"{stem}.png", name=name)
    dataset = open_dataset(tmp_path, None)
    assert len(dataset.class_names) == 1
    assert all(record.labels.tolist() == [0] for record in dataset.records)
    assert all(name in dataset.remarks[0] for name in names)


@pytest.mark.parametrize("name", ["", " ", "<x/>"])
def test_objects_without_a_name(tmp_path, name):
    (problem,) = open_dataset(write_set(tmp_path, name=name), None).problems
    assert "is no name" in problem.message


def test_xml_of_other_kinds_is_no_voc(tmp_path):
    write_text(tmp_path / "annotations.xml", "<annotations><image/></annotations>")
    with pytest.raises(DataError, match="is no known data set"):
        recognise(tmp_path)

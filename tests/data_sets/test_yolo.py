"""YOLO's folders as tools and people leave them."""

import pytest
from dataset_files import boxes_of, write_picture, write_text

from dfine_jax.data.formats import open_dataset, recognise
from dfine_jax.data.samples import DataError, ProblemKind

ROW = "0 0.5 0.5 0.25 0.5"
BOX = {"a.png": [("ant", 24, 12, 40, 36)]}
YAML = "train: images/train\nnames: [ant, bee]\n"


def write_set(
    folder, labels: str | bytes = ROW, yaml: str | None = YAML, picture="images/train/a.png", text="labels/train/a.txt"
):
    write_picture(folder / picture)
    file = write_text(folder / text, "")
    file.write_bytes(labels if isinstance(labels, bytes) else labels.encode())
    if yaml is not None:
        write_text(folder / "data.yaml", yaml)
    return folder


POINTS = "0.5 0.5 0.45 0.4 0.55 0.6"
FLAGGED = "0.5 0.5 2 0.45 0.4 1 0 0 0"


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        ROW + "\r\n",
        "  " + ROW + "  \n\n",
        "0.0 0.5 0.5 0.25 0.5",
        "0\t0.5\t0.5\t0.25\t0.5",
        "0,0.5,0.5,0.25,0.5",
        "0, 0.5, 0.5, 0.25, 0.5",
        "0;0.5;0.5;0.25;0.5",
        "0 0,5 0,5 0,25 0,5",
        ROW + " 0.93",
        ROW + " 1",
        "0 5e-1 .5 +0.25 0.5",
        "0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75",
        "0 0.375 0.25 0.625 0.25 0.625 0.75",
        "0 0.375 0.25 0.625 0.25 0.625 0.75 0.9",
        f"{ROW} {FLAGGED}",
        f"{ROW} {FLAGGED} 0.5 0.5 2",
    ],
)
def test_rows(tmp_path, row):
    dataset = open_dataset(write_set(tmp_path, row))
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


@pytest.mark.parametrize(
    ("shape", "points"), [("[3, 2]", POINTS), ("[3, 3]", FLAGGED), ("[1, 3]", "0.9 0.1 2"), ("[2, 2]", "0 0 1 1")]
)
def test_poses_by_the_shape_of_their_points(tmp_path, shape, points):
    dataset = open_dataset(write_set(tmp_path, f"{ROW} {points}", YAML + f"kpt_shape: {shape}\n"))
    assert boxes_of(dataset) == BOX


SCORED = "0.5 0.5 0.97 0.45 0.4 0.31"


@pytest.mark.parametrize(
    ("row", "remark"),
    [
        (ROW + " 0.9 7", ""),
        (ROW + " 0.9 2", ""),
        (ROW + " 0.9 1", "read as a box, a score and a track"),
        (f"{ROW} {SCORED}", ""),
        (f"{ROW} {SCORED} 0.8", ""),
        (f"{ROW} {SCORED} 0.8 12", ""),
        (f"{ROW} 0.5 0.5 0.97", ""),
        (f"{ROW} {FLAGGED} 0.8", ""),
        (f"{ROW} {FLAGGED} 0.8 3", ""),
        (f"{ROW} {SCORED} 0.4 0.6 0.12", ""),
        ("0 0.375 0.25 0.625 0.25 0.625 0.75 0.375 0.75 0.9 4", ""),
        ("0 0.375 0.25 0.625 0.25 0.625 0.75 0.9", "read as an outline with a score"),
        ("0 0.5 0.25 0.625 0.25 0.625 0.75 0.375 0.75 0.375 0.25", ""),
    ],
)
def test_rows_that_programs_found(tmp_path, row, remark):
    dataset = open_dataset(write_set(tmp_path, row))
    assert boxes_of(dataset) == BOX
    assert not dataset.problems
    assert [remark in said for said in dataset.remarks] == ([True] if remark else [])


def test_what_may_be_an_outline_or_a_pose_is_said(tmp_path):
    outline = "0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6 0.4 0.5"
    dataset = open_dataset(write_set(tmp_path, f"{outline}\n{outline[:-1]}6\n"))
    assert boxes_of(dataset)["a.png"][0] == ("ant", 26, 19, 38, 29)
    (remark,) = dataset.remarks
    assert "are read as outlines and could be boxes with key points" in remark
    pose = "0 0.5 0.5 0.8 0.8 0.4 0.4 0.9"  # an odd number of values is no outline
    dataset = open_dataset(write_set(tmp_path, pose))
    assert boxes_of(dataset)["a.png"] == [("ant", 6, 5, 58, 43)]
    assert "read as a box with key points" in dataset.remarks[0]


@pytest.mark.parametrize("row", ["0 0.1 0.2 0.3 0.4 0.5", "0 0.4 0.4 0.6 0.4 0.6 0.6 0.4 0.6"])
def test_four_corners_are_an_outline_without_a_remark(tmp_path, row):
    dataset = open_dataset(write_set(tmp_path, row))
    assert len(boxes_of(dataset)["a.png"]) == 1
    assert not dataset.remarks


@pytest.mark.parametrize(
    "text", ["runs/detect/predict/labels/b.txt", "labels_old/b.txt", "labels/val/b.txt", "labels/train/deep/b.txt"]
)
@pytest.mark.parametrize("picture", ["images/train/b.png", "images/train/empty/b.png"])
def test_a_picture_without_labels_takes_none_from_elsewhere(tmp_path, picture, text):
    write_set(tmp_path)
    write_picture(tmp_path / picture, colour=(1, 2, 3))
    write_text(tmp_path / text, ROW)
    dataset = open_dataset(tmp_path)
    assert boxes_of(dataset) == {**BOX, "b.png": []}


@pytest.mark.parametrize("folder", ["train", "train2017", "Training", "obj_train_data"])
def test_labels_in_the_folder_of_another_part_are_not_taken(tmp_path, folder):
    write_set(tmp_path, yaml="val: images/val2017\nnames: [ant]\n", text=f"labels/{folder}/7.txt")
    write_picture(tmp_path / "images/val2017/7.png")
    assert boxes_of(open_dataset(tmp_path, "val")) == {"7.png": []}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0: ant\n1: bee\n", ("ant", "bee")),
        ("1: bee\n\n0 : ant", ("ant", "bee")),
        ("0: ant\nbee: x", ("0: ant", "bee: x")),
        ("0: ant\n0: bee", ("0: ant", "0: bee")),
    ],
)
def test_numbers_before_names(tmp_path, text, expected):
    write_set(tmp_path, yaml=None)
    write_text(tmp_path / "classes.txt", text)
    assert open_dataset(tmp_path).class_names == expected


@pytest.mark.parametrize(
    "yaml",
    [
        "base: &base {0: ant}\nnames: {<<: *base, 1: bee}\n",
        "base: &base {names: [ant, bee], nc: 2}\n<<: *base\n",
        "a: &a {0: ant, 1: x}\nb: &b {1: bee}\nnames:\n  <<: [*b, *a]\n",
    ],
)
def test_merged_descriptions(tmp_path, yaml):
    assert open_dataset(write_set(tmp_path, yaml="train: images/train\n" + yaml)).class_names == ("ant", "bee")


def test_an_empty_folder_of_pictures_hides_no_other(tmp_path):
    (tmp_path / "images").mkdir()
    assert boxes_of(
        open_dataset(write_set(tmp_path, picture="photos/a.png", text="labels/a.txt", yaml=None), None)
    ) == {"a.png": [("0", *BOX["a.png"][0][1:])]}


@pytest.mark.parametrize(
    "row",
    [
        "junk",
        "0",
        "0 0.5 0.5 0.5",
        "ant 0.5 0.5 0.25 0.5",
        "0 0.5 0.5 nan 0.5",
        "0 0.5 0.5 inf 0.5",
        "0 0.5 0.5 1e999 0.5",
        "0.5 0.5 0.5 0.25 0.5",
        "0 0.5 0.5 0.2_5 0.5",
        "0 0.5 0.5 0.25 0.5 37",
        "0 0.1 0.2 0.3 0.4 0.5 0.6 7",
        "nan 0.5 0.5 0.25 0.5",
        "[0] 0.5 0.5 0.25 0.5",
        "None 0.5 0.5 0.25 0.5",
        "0 " + "9" * 1000 + " 0.5 0.25 0.5",
    ],
)
def test_rows_that_are_no_labels(tmp_path, row):
    dataset = open_dataset(write_set(tmp_path, f"{ROW}\n{row}\n1 0.5 0.5 0.25 0.5\n"))
    assert len(boxes_of(dataset)["a.png"]) == 2
    (problem,) = dataset.problems
    assert (problem.kind, problem.file.name, problem.line) == (ProblemKind.BROKEN_LABEL, "a.txt", 2)
    assert len(problem.message) < 250


@pytest.mark.parametrize("number", ["2", "-1", "9" * 300, "1e15"])
def test_classes_that_are_not_named(tmp_path, number):
    (problem,) = open_dataset(write_set(tmp_path, f"{number} 0.5 0.5 0.25 0.5")).problems
    assert problem.kind is ProblemKind.UNKNOWN_CLASS
    assert len(problem.message) < 200


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_encodings(tmp_path, encoding):
    write_set(tmp_path, (ROW + "\n").encode(encoding), yaml=None)
    (tmp_path / "data.yaml").write_bytes(YAML.encode(encoding))
    assert boxes_of(open_dataset(tmp_path)) == BOX


def test_an_unknown_encoding_costs_one_picture(tmp_path):
    write_set(tmp_path, b"\xff\xfe\xfd\x81 not text")
    write_picture(tmp_path / "images/train/b.png", colour=(1, 2, 3))
    dataset = open_dataset(tmp_path)
    assert list(boxes_of(dataset)) == ["b.png"]
    assert [problem.file.name for problem in dataset.problems] == ["a.txt"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[yes, no, 010, 1_000, null, ~, 1.0, on]", ("yes", "no", "010", "1_000", "null", "~", "1.0", "on")),
        ("{0: yes, 1: 0x10}", ("yes", "0x10")),
        ("{'1': bee, '0': ant}", ("ant", "bee")),
        ("{ant: 0, bee: 1}", ("ant", "bee")),
        ("\n  0: ant\n  2: cow", ("ant", "cow")),
        ("\n  - 0: ant\n  - 1: bee", ("ant", "bee")),
        ("\n- ant\n- 'bee: x'", ("ant", "bee: x")),
        ("ant", ("ant",)),
        ("ant, bee", ("ant", "bee")),
        ("['', bee]", ("0", "bee")),
        ("obj.names", ("wasp",)),
        ("[2024-01-01, 12:30:45, =, <<]", ("2024-01-01", "12:30:45", "=", "<<")),
    ],
)
def test_names_are_those_written(tmp_path, names, expected):
    write_text(tmp_path / "obj.names", "wasp\n")
    assert open_dataset(write_set(tmp_path, yaml=f"train: images/train\nnames: {names}\n")).class_names == expected


@pytest.mark.parametrize(
    ("yaml", "pattern"),
    [
        ("names: [ant\n", r"data\.yaml:\d: not valid YAML"),
        ("names: [[ant]]\n", r"'ant'.* where one name belongs"),
        ("names: {0: [ant]}\n", "where one name belongs"),
        ("names: {0: ant, 0.5: bee}\n", "must be class numbers, not 0, 0.5"),
        ("names: {x: ant}\n", "must be class numbers, not x"),
        ("[ant]\n", "names no classes"),
        ("names:\n", "names no classes"),
        ("names: {}\n", "names no classes"),
        ("", "names no classes"),
        ("names: [ant]\nkpt_shape: 4\n", "kpt_shape is '4'"),
        ("names: [ant]\ntrain: {a: b}\n", "train is"),
        ("names: [ant]\ntrain: [[a]]\n", "train is"),
        ("names: " + "[" * 100_000, "nest|depth"),
        ("{a: " * 100_000, "nest|depth"),
        ("names: !!python/object/apply:os.system [ls]\ntrain: gone\n", "refers to gone"),
        ("? [a, b]\n: c\nnames: [ant]\n", "not valid YAML|refers|no train"),
        (
            "a: &a [x, x]\n"
            + "".join(f"b{i}: &b{i} [*{p}, *{p}]\n" for i, p in enumerate(["a", *(f"b{i}" for i in range(60))]))
            + "names: *b60\n",
            "where one name belongs",
        ),
        ("names: [ant]\ntrain: " + "x" * 5000, r"refers to x+\.\.\.x+, which"),
        ("\x01\x02", "can't read|not valid"),
        ("names: &a {<<: *a, 0: ant}\n", "not valid YAML"),
    ],
)
def test_descriptions_that_are_refused_in_a_short_line(tmp_path, yaml, pattern):
    with pytest.raises(DataError, match=pattern) as caught:
        open_dataset(write_set(tmp_path, yaml=yaml))
    message = str(caught.value).replace(str(tmp_path), "")
    assert "\n" not in message
    assert len(message) < 400


def test_a_description_with_tabs_is_read(tmp_path):
    assert (
        boxes_of(open_dataset(write_set(tmp_path, yaml="train:\timages/train\nnames:\n\t0: ant\n\t1:\tbee\n"))) == BOX
    )


def test_the_number_of_classes_that_disagrees_is_remarked_on(tmp_path):
    assert "nc: 3" in open_dataset(write_set(tmp_path, yaml=YAML + "nc: 3\n")).remarks[0]
    dataset = open_dataset(write_set(tmp_path, yaml="train: images/train\nnc: 2\n"))
    assert dataset.class_names == ("0", "1")
    assert "names no classes" in dataset.remarks[0]


@pytest.mark.parametrize(
    ("train", "picture", "text"),
    [
        ("images/train", "images/train/a.png", "labels/train/a.txt"),
        (r"images\train", "images/train/a.png", "labels/train/a.txt"),
        ("./images/train/", "images/train/a.png", "labels/train/a.txt"),
        ("../train/images", "train/images/a.png", "train/labels/a.txt"),
        (r"..\train\images", "train/images/a.png", "train/labels/a.txt"),
        ("/content/datasets/x/train/images", "train/images/a.png", "train/labels/a.txt"),
        (r"C:\data\x\train\images", "train/images/a.png", "train/labels/a.txt"),
        ("train/images/*.png", "train/images/a.png", "train/labels/a.txt"),
        ("Images/Train", "Images/Train/a.png", "Labels/Train/a.txt"),
        ("images/train", "Images/Train/a.png", "Labels/Train/a.txt"),
        ("images/train", "images/train/deep/a.png", "labels/train/deep/a.txt"),
        ("train", "train/a.png", "train/a.txt"),
        ("train", "train/images/a.png", "train/labels/a.txt"),
        ("images", "images/a.png", "images/a.txt"),
        ("images", "images/a.png", "labels/a.TXT"),
        ("images", "images/a.png", "labels/a.png.txt"),
        ("train", "train/a.png", "train/labels/a.txt"),
        ("images/training", "images/training/a.png", "labels/train/a.txt"),
        ("pictures", "pictures/a.png", "text/a.txt"),
        ("images/train", "images/train/a.png", "labels/a.txt"),
        ("images/train", "images/train/a.png", "labels/train/0123abcd-a.txt"),
        ("[images/train]", "images/train/a.png", "labels/train/a.txt"),
    ],
)
def test_where_pictures_and_labels_lie(tmp_path, train, picture, text):
    dataset = open_dataset(write_set(tmp_path, yaml=f"train: {train}\nnames: [ant]\n", picture=picture, text=text))
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


def test_labels_of_another_part_are_not_taken(tmp_path):
    write_set(tmp_path, yaml="train: images/train\nval: images/val\nnames: [ant]\n", text="labels/val/a.txt")
    write_picture(tmp_path / "images/val/a.png")
    assert boxes_of(open_dataset(tmp_path, "train")) == {"a.png": []}
    assert boxes_of(open_dataset(tmp_path, "val")) == BOX


@pytest.mark.parametrize("name", ["d%C3%A9cran", "décran", "DÉCRAN"])
def test_labels_with_escaped_names(tmp_path, name):
    write_set(tmp_path, picture="images/train/décran.png", text=f"labels/train/{name}.txt")
    dataset = open_dataset(tmp_path)
    assert boxes_of(dataset) == {"décran.png": BOX["a.png"]}
    assert ("found by name" in " ".join(dataset.remarks)) == (name != "décran")


def test_labels_of_no_picture_are_reported(tmp_path):
    write_set(tmp_path)
    for name, text in (("b", ROW), ("classes", "ant\n"), ("notes", "some words"), ("empty", "")):
        write_text(tmp_path / f"labels/train/{name}.txt", text)
    (problem,) = open_dataset(tmp_path).problems
    assert (problem.kind, problem.file.name) == (ProblemKind.STRAY_LABELS, "b.txt")


def test_it_is_said_where_labels_were_looked_for(tmp_path):
    write_set(tmp_path, text="other/z.txt")
    remark = open_dataset(tmp_path).remarks[0]
    assert f"looked in {tmp_path}/labels/train" in remark
    assert f"label files in {tmp_path}/other" in remark


@pytest.mark.parametrize(
    "row",
    [
        "images/train/a.png",
        "./images/train/a.png",
        r".\images\train\a.png",
        r"images\train\a.png",
        "data/images/train/a.png",
        "/home/me/set/images/train/a.png",
        r"C:\set\images\train\a.png",
        '"images/train/a.png"',
        "images/train/A.png",
        "images/train/a.jpg",
    ],
)
def test_rows_of_a_list_of_pictures(tmp_path, row):
    write_set(tmp_path, yaml="train: train.txt\nnames: [ant]\n")
    write_text(tmp_path / "train.txt", row + "\r\n\r\n")
    dataset = open_dataset(tmp_path)
    assert boxes_of(dataset) == BOX
    assert (dataset.records[0].file, dataset.records[0].line) == (tmp_path / "train.txt", 1)


def darknet(folder):
    write_set(folder, yaml=None, picture="obj_train_data/a.png", text="obj_train_data/a.txt")
    write_text(folder / "obj.names", "ant\nbee\n")
    write_text(folder / "train.txt", "data/obj_train_data/a.png\n")
    write_text(folder / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")


def darknet_without_its_list(folder):
    darknet(folder)
    (folder / "train.txt").unlink()


def cvat_ultralytics(folder):
    write_set(folder, yaml="names:\n  0: ant\npath: .\ntrain: train.txt\n")
    write_text(folder / "train.txt", "data/images/train/a.png\n")


def label_studio(folder):
    write_set(folder, yaml=None, picture="images/a.png", text="labels/a.txt")
    write_text(folder / "classes.txt", "ant")
    write_text(folder / "notes.json", '{"categories": [{"id": 0, "name": "ant"}], "info": {"year": 2024}}')


def roboflow_darknet(folder):
    write_set(folder, yaml=None, picture="train/a.png", text="train/a.txt")
    write_text(folder / "train/_darknet.labels", "ant\nbee")


def labelimg(folder):
    write_set(folder, yaml=None, picture="a.png", text="a.txt")
    write_text(folder / "classes.txt", "ant\nbee\n\n")


def names_among_the_labels(folder):
    write_set(folder, yaml=None)
    write_text(folder / "labels/classes.txt", "ant\n")


def description_without_parts(folder):
    write_set(folder, yaml="names: [ant]\n")


def splits_apart(folder):
    write_set(folder, yaml=None, picture="Train/Images/a.png", text="Train/Labels/a.txt")
    write_text(folder / "obj.names", "ant")


@pytest.mark.parametrize(
    ("build", "split"),
    [
        (darknet, "train"),
        (darknet_without_its_list, "train"),
        (cvat_ultralytics, "train"),
        (label_studio, None),
        (roboflow_darknet, "train"),
        (labelimg, None),
        (names_among_the_labels, "train"),
        (description_without_parts, "train"),
        (splits_apart, "train"),
    ],
)
def test_forms_of_other_tools(tmp_path, build, split):
    build(tmp_path)
    source = recognise(tmp_path)
    assert (source.format, source.splits) == ("yolo", (split,) if split else ())
    dataset = source.open(split)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


def test_without_any_names_classes_are_numbers_of_all_parts(tmp_path):
    write_set(tmp_path, yaml=None)
    write_set(tmp_path, "7 0.5 0.5 0.2 0.2", None, "images/val/b.png", "labels/val/b.txt")
    for split in ("train", "val"):
        dataset = open_dataset(tmp_path, split)
        assert dataset.class_names == ("0", "7")
        assert "names no classes" in dataset.remarks[0]


def test_files_of_systems_are_passed_over(tmp_path):
    write_set(tmp_path)
    for name in (
        "images/train/._a.png",
        "images/train/.DS_Store",
        "images/train/Thumbs.db",
        "labels/train/._a.txt",
        "._data.yaml",
    ):
        write_text(tmp_path / name, "\0\5\x16\7")
    write_text(tmp_path / "images/train/.ipynb_checkpoints/a-checkpoint.png", "x")
    write_text(tmp_path / "images/train/__MACOSX/a.png", "x")
    dataset = open_dataset(tmp_path)
    assert boxes_of(dataset) == BOX
    assert not dataset.problems


def test_several_descriptions_are_ambiguous(tmp_path):
    write_set(tmp_path, yaml=None)
    for name in ("a", "b"):
        write_text(tmp_path / f"{name}.yaml", YAML)
    with pytest.raises(DataError, match=r"several descriptions: a\.yaml, b\.yaml; give one"):
        recognise(tmp_path)
    assert boxes_of(open_dataset(tmp_path / "b.yaml")) == BOX

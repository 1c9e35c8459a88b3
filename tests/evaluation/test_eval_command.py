import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tyro
from PIL import Image

from dfine_jax.cli import eval as command
from dfine_jax.data.shapes import CLASS_NAMES
from dfine_jax.errors import InputError
from dfine_jax.inference.detections import Detections
from dfine_jax.inference.detector import Found
from dfine_jax.inference.edges import Edges
from dfine_jax.inference.pictures import PictureError, load_picture


class Teacher:
    """A detector that looks the labels up."""

    def __init__(self, class_names, edges):
        self.config = SimpleNamespace(class_names=class_names)
        self.edges = edges

    def stream(self, sources, threshold):
        for source in sources:
            r = source.dataset.records[source.index]
            try:
                load_picture(source)
            except PictureError as error:
                yield Found(source, error, None)
                continue
            scores = np.linspace(0.9, 0.3, len(r.labels))
            places = r.boxes[..., None] + np.array([-2, 0, 2], np.float32)
            detections = Detections.above(
                threshold,
                scores,
                r.labels,
                r.boxes,
                class_names=self.config.class_names,
                size=(r.width, r.height),
                edges=Edges(places, np.full(places.shape, 1 / 3)) if self.edges else None,
            )
            yield Found(source, detections, None)


@pytest.fixture
def evaluated(monkeypatch, capsys):
    """Runs the command with a detector that knows everything, and gives exit code, output and notes."""

    def run(*arguments, class_names=CLASS_NAMES):
        asked = []

        def open_pretrained(name):
            place = Path(name) if Path(name).is_dir() else None
            return SimpleNamespace(source=name, remarks=("something is assumed",), place=place)

        def from_stored(stored, **options):
            asked.append((stored.source, options))
            return Teacher(class_names, options["edges"])

        monkeypatch.setattr(command, "open_pretrained", open_pretrained)
        monkeypatch.setattr(command, "Detector", SimpleNamespace(from_stored=from_stored))
        monkeypatch.setenv("COLUMNS", "110")
        code = tyro.cli(command.run, args=[*map(str, arguments)])
        return SimpleNamespace(code=code, asked=asked, **capsys.readouterr()._asdict())

    return run


def write_coco(folder, splits=("val",), broken=False):
    """Two pictures a split, the second with a crowd; the first's file is cut off if asked for."""
    (folder / "annotations").mkdir(parents=True)
    (folder / "pictures").mkdir()
    for split in splits:
        for number in (1, 2):
            file = folder / "pictures" / f"{split}{number}.png"
            Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(file)
            if broken and number == 1:
                file.write_bytes(file.read_bytes()[:500])
        images = [{"id": i, "file_name": f"{split}{i}.png", "width": 64, "height": 64} for i in (1, 2)]
        boxes = [(1, 3, [4, 4, 20, 20], 0), (2, 7, [10, 10, 30, 30], 0), (2, 3, [0, 0, 60, 60], 1)]
        annotations = [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "area": 400, "iscrowd": crowd}
            for i, (image, category, box, crowd) in enumerate(boxes)
        ]
        categories = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}, {"id": 90, "name": "[bold]owl"}]
        text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
        (folder / "annotations" / f"{split}.json").write_text(text)


def test_drawn_data(evaluated, tmp_path):
    result = evaluated("--data", "shapes:size=64,count=5", "--model", "some", "--output", tmp_path / "out")
    assert result.code == 0
    assert result.asked == [("some", {"size": None, "dtype": "float32", "batch_size": 8, "edges": False})]
    assert "some on shapes:size=64,count=5, val" in result.out
    assert "AP, IoU 0.50 to 0.95  1.000" in result.out
    numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (numbers["model"], numbers["split"], numbers["coco"]["ap"]) == ("some", "val", 1.0)
    for name in ("predictions.json", "precision_recall.png", "class_bars.png", "confusion_matrix.png", "pictures.jpg"):
        assert (tmp_path / "out" / name).stat().st_size > 100


def test_table_of_classes(evaluated, tmp_path):
    write_coco(tmp_path)
    result = evaluated("--data", tmp_path, class_names=("cat", "dog", "[bold]owl"))
    assert result.code == 0
    cells = [line.split() for line in result.out.splitlines()]
    assert ["cat", "1", "1.000", "1.000", "1.000", "1.000", "1.000"] in cells
    assert ["[bold]owl", "0", "-", "-", "-", "-", "-"] in cells
    assert not list(tmp_path.glob("*.json"))  # nothing is written if not asked for


def test_classes_the_model_does_not_know_are_named(evaluated, tmp_path):
    write_coco(tmp_path)
    result = evaluated("--data", tmp_path, class_names=("cat", "car", "[bold]owl"))
    assert "the model doesn't know dog" in result.err
    assert ["dog", "1", "0.000", "0.000", "0.000", "-", "0.000"] in [line.split() for line in result.out.splitlines()]


def test_pictures_that_can_not_be_read(evaluated, tmp_path):
    write_coco(tmp_path, broken=True)
    result = evaluated("--data", tmp_path, class_names=("cat", "dog", "owl"))
    assert result.code == 1
    assert "val1.png" in result.err
    assert "1 of 2 pictures could not be read" in result.err


def test_split(evaluated, tmp_path):
    write_coco(tmp_path, splits=("train", "test"))
    names = ("cat", "dog", "owl")
    assert ", test" in evaluated("--data", tmp_path, "--split", "test", class_names=names).out
    with pytest.raises(ValueError, match="no val split"):
        evaluated("--data", tmp_path, class_names=names)
    in_one_piece = tmp_path / "annotations" / "test.json"
    assert "AP, IoU 0.50 to 0.95  1.000" in evaluated("--data", in_one_piece, class_names=names).out


def test_many_classes_are_not_all_listed(evaluated, tmp_path):
    names = [f"class {i}" for i in range(40)]
    write_coco(tmp_path)
    file = tmp_path / "annotations" / "val.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "categories": [{"id": i, "name": name} for i, name in enumerate(names)]}))
    result = evaluated("--data", tmp_path, class_names=names)
    assert sum(line.startswith("class ") for line in result.out.splitlines()) == 30 + 1  # with the heading
    assert "... 10 more" in result.out
    assert result.out.index("class 3 ") < result.out.index("... 10 more")  # one of the two with boxes


def test_bad_options(evaluated, tmp_path):
    with pytest.raises(ValueError, match=r"threshold=1\.5: expected a score from 0 to 1"):
        evaluated("--data", "shapes:count=1", "--threshold", "1.5")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file is no folder"):
        evaluated("--data", "shapes:count=1", "--output", tmp_path / "file")
    with pytest.raises(ValueError, match="no class in common"):
        evaluated("--data", "shapes:count=1", class_names=("car",))


@pytest.mark.parametrize("kind", ["same folder", "link"])
def test_no_file_that_is_read_is_written_to(evaluated, tmp_path, kind):
    """Labels that are called as one of the files that would be written."""
    write_coco(tmp_path / "data")
    labels, output = tmp_path / "data" / "annotations" / "val.json", tmp_path / "out"
    output.mkdir()
    if kind == "link":
        (output / "metrics.json").symlink_to(labels)
    else:
        labels = labels.rename(tmp_path / "data" / "annotations" / "metrics.json")
        output = labels.parent
    before = labels.read_bytes()
    with pytest.raises(InputError, match=r"--output would write to .*metrics\.json, which is read"):
        evaluated("--data", labels, "--output", output, class_names=("cat", "dog", "owl"))
    assert labels.read_bytes() == before


def test_markup_in_names(evaluated, tmp_path):
    write_coco(tmp_path / "[" / "x]")
    data = f"{tmp_path}/[/x]"
    result = evaluated("--data", data, "--output", tmp_path / "[b]", class_names=("cat", "dog", "[bold]owl"))
    assert result.code == 0
    assert "[/x]" in result.out.replace("\n", "")
    assert "[b]" in result.err.replace("\n", "")


def test_errors(evaluated, tmp_path):
    """The teacher's scores fall from 0.9 to 0.3, so that with a threshold of 0.5 some are missed, and nothing costs."""
    result = evaluated("--data", "shapes:size=64,count=6", "--errors", "--output", tmp_path / "out")
    assert result.code == 0
    cells = [line.split() for line in result.out.splitlines()]
    assert ["what", "went", "wrong", "costs,", "of", "AP50", "1.000", "above", "0.5"] in cells
    (missed,) = [line for line in cells if line[:4] == ["missed", "labelled", "and", "not"]]
    assert missed[5] == "0.000"
    assert int(missed[6]) > 0
    assert "label in doubt" in result.out
    errors = json.loads((tmp_path / "out" / "errors.json").read_text())
    assert errors["kinds"]["missed"] == {"ap_cost": 0.0, "count": int(missed[6])}
    assert {entry["kind"] for entry in errors["errors"]} == {"missed"}
    assert errors["errors"][0]["found"] is None
    ranking = json.loads((tmp_path / "out" / "label_errors.json").read_text())
    assert ranking[0]["picture"].startswith("drawn picture")
    assert [entry["loss"] for entry in ranking] == sorted((entry["loss"] for entry in ranking), reverse=True)
    for kind in ("class", "place", "both", "duplicate", "background", "missed"):
        with Image.open(tmp_path / "out" / f"errors_{kind}.jpg") as page:
            assert page.width > 200


def test_calibration_is_fitted_kept_and_taken(evaluated, tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    options = ("--data", "shapes:size=64,count=30", "--model", model)
    raw = evaluated(*options, "--calibration")
    assert "the model has no calibration: --keep-calibration --split val fits one" in raw.err
    assert "corrected" not in raw.out
    assert list(model.iterdir()) == []
    fitted = evaluated(*options, "--keep-calibration", "--output", tmp_path / "out")
    assert f"kept in {model / 'calibration.json'}" in fitted.err
    # Every label is found just where it is: all edges are in the narrowest interval.
    kept = json.loads((model / "calibration.json").read_text())
    assert [edge["level"] for edge in kept["edges"]] == [0.5, 0.8, 0.9, 0.95]
    assert all(edge["factor"] < 1e-3 for edge in kept["edges"])
    taken = evaluated(*options, "--calibration", "--split", "test")
    rows = [line.split() for line in taken.out.splitlines()]
    (shares,) = [row[3:] for row in rows if row[:2] == ["corrected,", "all"]]
    assert all(float(share.removesuffix("%")) > 99 for share in shares)
    assert (tmp_path / "out" / "reliability.png").stat().st_size > 100


def test_calibrations_that_can_not_be_kept_or_read(evaluated, tmp_path):
    with pytest.raises(InputError, match=r"--keep-calibration: nano-coco is no folder of a model.*dfine convert"):
        evaluated("--data", "shapes:count=1", "--model", "nano-coco", "--keep-calibration")
    (tmp_path / "calibration.json").write_text("{}")
    options = ("--data", "shapes:size=64,count=30", "--model", tmp_path)
    with pytest.raises(InputError, match=r"calibration\.json: edges = null must be a list.*--keep-calibration"):
        evaluated(*options, "--calibration")
    assert evaluated(*options).code == 0  # nobody asked for it
    assert evaluated(*options, "--keep-calibration").code == 0
    assert evaluated(*options, "--calibration").code == 0
    with pytest.raises(InputError, match="too few to fit a calibration on"):
        evaluated("--data", "shapes:size=64,count=1", "--model", tmp_path, "--keep-calibration")

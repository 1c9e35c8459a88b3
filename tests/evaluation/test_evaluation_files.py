import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from evaluation_data import CLASS_NAMES, dataset, found, record
from PIL import Image

from dfine_jax.evaluation import plots
from dfine_jax.evaluation.coco_metrics import evaluate
from dfine_jax.evaluation.report import write_report
from dfine_jax.evaluation.sheet import MISSED, RIGHT, WRONG, comparison_sheet
from dfine_jax.evaluation.tiles import GAP
from dfine_jax.evaluation.truth import Truth

BOX = (10.0, 10.0, 50.0, 50.0)
FAR = (100.0, 20.0, 140.0, 60.0)


@pytest.fixture(scope="module")
def evaluation(many):
    data, predicted = many
    return evaluate(predicted, Truth.of(data), threshold=0.6)


def test_files(many, evaluation, tmp_path):
    data, predicted = many
    write_report(evaluation, data, tmp_path / "new" / "report", {"model": "tiny"})
    folder = tmp_path / "new" / "report"
    numbers = json.loads((folder / "metrics.json").read_text())
    assert (numbers["model"], numbers["pictures"], numbers["threshold"]) == ("tiny", 40, 0.6)
    assert numbers["coco"]["ap"] == evaluation.ap
    assert [c["name"] for c in numbers["classes"]] == list(CLASS_NAMES)
    assert numbers["classes"][3]["ap"] is None  # JSON has no NaN
    assert numbers["confusion"] == evaluation.confusion.counts.tolist()

    entries = json.loads((folder / "predictions.json").read_text())
    assert len(entries) == sum(len(p.scores) for p in predicted)
    assert {e["category_id"] for e in entries} == {3, 7, 18, 90}
    for name in ("precision_recall.png", "class_bars.png", "confusion_matrix.png", "pictures.jpg"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 300
            assert len(np.unique(np.asarray(picture.convert("L")))) > 20, f"{name} is blank"


def text(figure):
    """All that is written in a figure, its tick labels and legends included."""
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text)]


def test_curves_are_the_precisions(evaluation):
    figure = plots.precision_recall(evaluation)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    cat = evaluation.classes[0]
    np.testing.assert_array_equal(
        lines[f"{cat.ap50:.3f}  {cat.ap75:.3f}  cat"].get_ydata(), evaluation.precisions[0, :, 0]
    )
    mean = lines[f"{evaluation.figures.ap50:.3f}  {evaluation.figures.ap75:.3f}  mean of 3 classes"].get_ydata()
    np.testing.assert_allclose(mean.mean(), evaluation.figures.ap50)
    assert not any(label.endswith("bird") for label in lines)  # it has no boxes
    (dot,) = [line for line in figure.axes[1].lines if line.get_marker() == "o"][:1]
    recall, precision = dot.get_xdata()[0], dot.get_ydata()[0]
    index = round(100 * recall)
    assert evaluation.scores[5, index, 0] > 0.6 >= evaluation.scores[5, index + 1, 0]
    assert precision == evaluation.precisions[5, index, 0]


def test_bars_are_sorted_and_a_class_without_boxes_says_so(evaluation):
    figure = plots.class_bars(evaluation)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    best = sorted((c for c in evaluation.classes if c.boxes), key=lambda c: -c.ap)
    assert names == [f"{c.name} ({c.boxes})" for c in best] + ["bird (0)"]
    assert "no boxes" in text(figure)
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == [c.ap50 for c in best] + [c.ap for c in best]


def test_confusion_shows_its_counts(evaluation):
    counts = evaluation.confusion.counts
    shown = {tuple(map(int, t.get_position())): t.get_text() for t in plots.confusion_matrix(evaluation).axes[0].texts}
    assert shown == {(column, row): str(counts[row, column]) for row, column in np.argwhere(counts)}


@pytest.mark.parametrize("classes", [1, 40])
@pytest.mark.parametrize("draw", [plots.precision_recall, plots.class_bars, plots.confusion_matrix])
def test_few_and_many_classes(draw, classes, tmp_path):
    names, ids = tuple(f"class {i}" for i in range(classes)), tuple(range(classes))
    data = dataset(record([BOX], [0]), class_names=names, category_ids=ids)
    draw(evaluate([found(0, (0.9, classes - 1, BOX))], Truth.of(data))).savefig(tmp_path / "figure.png")


def test_of_very_many_classes_the_most_telling_are_drawn(monkeypatch):
    monkeypatch.setattr(plots, "MOST_DRAWN", 4)
    names, ids = tuple(f"class {i}" for i in range(13)), tuple(range(13))
    boxes = [(60.0 * i, 10.0, 60.0 * i + 40, 50.0) for i in range(12)]
    data = dataset(record(boxes, list(range(12)), width=1000), class_names=names, category_ids=ids)
    taken = {3: 8, 9: 10}  # for others, which are found themselves, too
    found_ones = [(0.9, taken.get(i, i), box) for i, box in enumerate(boxes)]
    evaluation = evaluate([found(0, *found_ones)], Truth.of(data))
    matrix = plots.confusion_matrix(evaluation).axes[0]
    assert [label.get_text() for label in matrix.get_yticklabels()] == [
        "class 3", "class 8", "class 9", "class 10", "(nothing)"
    ]  # fmt: skip
    assert matrix.get_title("left") == "Labelled and found (threshold 0.5), the 4 of 13 classes with most mistakes"
    bars = plots.class_bars(evaluation).axes[0]
    assert [label.get_text() for label in bars.get_yticklabels()][2:] == ["class 3 (1)", "class 9 (1)"]
    assert bars.get_title("left") == "AP by class (number of boxes), the best and the worst 2 of 12"


def test_grey_curves_are_the_precisions(monkeypatch, evaluation):
    monkeypatch.setattr(plots, "MOST_COLOURED", 2)
    curves = plots.precision_recall(evaluation).axes[0].lines[0].get_ydata().reshape(3, -1)
    np.testing.assert_array_equal(curves[:, :-1], evaluation.precisions[0, :, [0, 1, 2]])
    assert np.isnan(curves[:, -1]).all()


@pytest.mark.parametrize("draw", [plots.precision_recall, plots.class_bars, plots.confusion_matrix])
def test_nothing_to_be_found(draw, tmp_path):
    draw(evaluate([], Truth.of(dataset()))).savefig(tmp_path / "figure.png")


def test_sheet_tells_right_from_wrong_and_missed():
    boxes = [BOX, FAR]
    data = dataset(record(boxes, [0, 1]), record([FAR], [1]))
    predicted = [found(0, (0.9, 0, BOX), (0.8, 2, FAR), (0.2, 1, (60, 5, 80, 9))), found(1)]
    sheet = np.asarray(comparison_sheet(data, evaluate(predicted, Truth.of(data)), columns=2, tile=200))

    def colour(picture, x, y):
        return tuple(sheet[GAP + y, GAP + picture * (200 + GAP) + x].tolist())

    assert colour(0, 10, 30) == RIGHT
    assert colour(0, 100, 40) == WRONG  # of another class
    assert colour(1, 102, 20) == MISSED
    assert colour(0, 60, 7) == (128, 128, 128)  # under the threshold
    assert colour(0, 30, 30) == (128, 128, 128)


def test_sheet_passes_over_pictures_that_are_gone(tmp_path):
    data = dataset(replace(record(), picture=tmp_path / "gone.png"), record())
    one = comparison_sheet(data, evaluate([found(0), found(1)], Truth.of(data)), tile=200)
    none = comparison_sheet(dataset(), evaluate([], Truth.of(dataset())), tile=200)
    assert one.height - none.height == 100 + GAP


ODD = ("[/x]", "a$b$c \\$", "\x1b[31m\u202e\n", "lone \ud83d", "\u732b", "x" * 10**5)


def test_odd_names_of_classes(tmp_path):
    """None is taken for a formula or for steering characters, or keeps the files from being written."""
    data = dataset(record([BOX], [0], image_id="\udcff"), class_names=ODD, category_ids=tuple(range(len(ODD))))
    result = evaluate([found(0, *((0.9 - k / 100, k, BOX) for k in range(len(ODD))))], Truth.of(data))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_report(result, data, tmp_path, {"model": "\udcff"})
    numbers = json.loads((tmp_path / "metrics.json").read_text("utf-8"))
    assert [c["name"] for c in numbers["classes"]] == [*ODD[:3], "lone \\ud83d", *ODD[4:]]
    assert numbers["model"] == "\\xff"
    assert json.loads((tmp_path / "predictions.json").read_text("utf-8"))[0]["image_id"] == "\\xff"
    shown = text(plots.class_bars(result))
    assert all(name in shown for name in ("[/x] (1)", r"a\$b\$c \\$ (0)", r"\x1b[31m\u202e\n (0)"))


def test_a_file_that_can_not_be_finished_leaves_the_one_before(tmp_path, many, evaluation, monkeypatch):
    (tmp_path / "metrics.json").write_text("before")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match=r"No space left on device: .*metrics\.json"):
        write_report(evaluation, many[0], tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "before"

import numpy as np
import pytest
from evaluation_data import CATEGORY_IDS, dataset, found, record

from dfine_jax.evaluation.coco_metrics import IOUS, RECALLS, Figures, evaluate
from dfine_jax.evaluation.predictions import own_ids
from dfine_jax.evaluation.truth import Truth

BOX = (10.0, 10.0, 50.0, 50.0)
FAR = (100.0, 20.0, 140.0, 60.0)


def measured(data, *predicted, **options):
    return evaluate(predicted, Truth.of(data), **options)


def test_agrees_with_pycocotools(many, capsys):
    """On the same labels, written down here in COCO's form, and the predictions as they are saved."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    data, predicted = many
    result = evaluate(predicted, Truth.of(data))

    annotations = []
    for index, r in enumerate(data.records):
        objects = zip(r.boxes, r.labels, r.areas, [0] * len(r.labels), strict=True)
        crowds = zip(r.crowd_boxes, r.crowd_labels, r.crowd_areas, [1] * len(r.crowd_labels), strict=True)
        for (x0, y0, x1, y1), label, area, crowd in [*objects, *crowds]:
            annotations.append({
                "id": len(annotations) + 1, "image_id": index, "category_id": CATEGORY_IDS[label],
                "bbox": [float(x0), float(y0), float(x1 - x0), float(y1 - y0)], "area": float(area), "iscrowd": crowd,
            })  # fmt: skip
    assert sum(a["iscrowd"] for a in annotations) > 20
    labelled = coco.COCO()
    labelled.dataset = {
        "images": [{"id": i} for i in range(len(data))],
        "categories": [{"id": i} for i in CATEGORY_IDS],
        "annotations": annotations,
    }
    labelled.createIndex()
    index_of = {r.image_id: index for index, r in enumerate(data.records)}
    entries = own_ids(predicted, result.truth)
    reference = cocoeval.COCOeval(
        labelled, labelled.loadRes([{**e, "image_id": index_of[e["image_id"]]} for e in entries]), "bbox"
    )
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    capsys.readouterr()

    assert min(reference.stats) > 0.01  # every figure means something
    np.testing.assert_allclose(result.figures, reference.stats, rtol=0, atol=1e-6)
    np.testing.assert_allclose(IOUS, reference.params.iouThrs)
    np.testing.assert_allclose(RECALLS, reference.params.recThrs)
    precision = reference.eval["precision"][:, :, :, 0, -1]
    np.testing.assert_allclose(result.precisions[:, :, :3], precision[:, :, :3], rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.scores[:, :, :3], reference.eval["scores"][:, :, :3, 0, -1], rtol=0, atol=1e-6)
    for k, figures in enumerate(result.classes[:3]):
        expected = [precision[..., k].mean(), precision[0, :, k].mean(), precision[5, :, k].mean()]
        np.testing.assert_allclose([figures.ap, figures.ap50, figures.ap75], expected, rtol=0, atol=1e-6)
        np.testing.assert_allclose(figures.ar100, reference.eval["recall"][:, k, 0, -1].mean(), rtol=0, atol=1e-6)


def test_perfect_predictions():
    data = dataset(record([BOX, FAR], [0, 2]), record([], []))
    result = measured(data, found(0, (0.9, 0, BOX), (0.8, 2, FAR)), found(1))
    assert result.ap == result.figures.ap50 == result.figures.ar100 == 1.0
    assert np.isnan(result.figures.ap_small)  # 40 x 40 pixels are medium
    assert result.figures.ap_medium == 1.0
    assert [c.ap for c in result.classes if c.boxes] == [1.0, 1.0]


def test_a_detection_counts_up_to_its_iou():
    shifted = (18.0, 10.0, 58.0, 50.0)  # 32 of 48 columns in common: an IoU of 2/3
    result = measured(dataset(record([BOX], [0])), found(0, (0.9, 0, shifted)))
    assert result.ap == pytest.approx(0.4)  # 0.50, 0.55, 0.60 and 0.65
    assert (result.figures.ap50, result.figures.ap75) == (1.0, 0.0)


def test_half_of_the_boxes_found():
    result = measured(dataset(record([BOX, FAR], [0, 0])), found(0, (0.9, 0, BOX)))
    assert result.ap == pytest.approx(51 / 101)  # recalls from 0.00 to 0.50 have a precision of 1
    assert result.classes[0].ar100 == 0.5


def test_a_crowd_is_not_held_against_a_detector():
    in_crowd = found(0, (0.9, 0, FAR), (0.8, 0, BOX))
    without = measured(dataset(record([BOX], [0])), in_crowd)
    within = measured(dataset(record([BOX], [0], [(90, 10, 180, 90)], [0])), in_crowd)
    of_another_class = measured(dataset(record([BOX], [0], [(90, 10, 180, 90)], [1])), in_crowd)
    assert (within.ap, without.ap, of_another_class.ap) == (1.0, 0.5, 0.5)
    assert within.classes[0].boxes == 1  # the crowd is none
    assert of_another_class.classes[1].boxes == 0
    assert np.isnan(of_another_class.classes[1].ap)


def test_areas_are_those_of_the_labels():
    large_box_small_mask = record([(0, 0, 100, 100)], [0])
    large_box_small_mask.areas[:] = 900
    result = measured(dataset(large_box_small_mask), found(0, (0.9, 0, (0, 0, 100, 100))))
    assert result.figures.ap_small == 1.0
    assert np.isnan(result.figures.ap_large)


def test_a_class_without_boxes_has_no_ap_and_is_no_part_of_the_mean():
    result = measured(dataset(record([BOX], [0])), found(0, (0.9, 0, BOX), (0.95, 1, FAR)))
    assert result.ap == 1.0
    assert np.isnan(result.classes[1].ap)
    assert np.isnan(result.precisions[:, :, 1]).all()
    assert (result.classes[1].boxes, result.classes[1].precision) == (0, 0.0)  # though it was found, wrongly


def test_no_predictions():
    result = measured(dataset(record([BOX], [0]), record([FAR], [1])), found(0), found(1))
    assert result.ap == 0.0
    assert [c.ap for c in result.classes[:2]] == [0.0, 0.0]
    assert np.isnan(result.classes[0].precision)
    assert result.classes[0].recall == 0.0


@pytest.mark.parametrize("records", [(), (record(),)], ids=["no pictures", "no boxes"])
def test_nothing_to_be_found(records):
    predicted = [found(i, (0.9, 0, BOX)) for i in range(len(records))]
    result = measured(dataset(*records), *predicted)
    assert all(np.isnan(value) for value in result.figures)
    assert all(np.isnan(c.ap) for c in result.classes)
    assert result.confusion.counts.sum() == len(records)


def test_pictures_without_an_entry_are_left_out():
    data = dataset(record([BOX], [0]), record([BOX, FAR], [0, 1]))
    result = measured(data, found(0, (0.9, 0, BOX)))
    assert result.ap == 1.0
    assert [c.boxes for c in result.classes] == [1, 0, 0, 0]
    assert measured(data, found(0, (0.9, 0, BOX)), found(1)).ap < 0.5


def test_threshold_does_not_matter_to_ap():
    data = dataset(record([BOX, FAR], [0, 0]))
    predicted = found(0, (0.6, 0, BOX), (0.4, 0, FAR))
    low, high = measured(data, predicted, threshold=0.3), measured(data, predicted, threshold=0.5)
    assert low.ap == high.ap == 1.0
    assert (low.classes[0].recall, high.classes[0].recall) == (1.0, 0.5)


def test_names_and_category_ids():
    result = measured(dataset(record([BOX], [2])), found(0))
    assert [(c.name, c.category_id) for c in result.classes][2:] == [("traffic light", 18), ("bird", 90)]
    assert len(result.figures) == len(Figures._fields) == 12


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        ([found(0), found(0)], "picture 0 are there twice"),
        ([found(2)], "picture 2, but there are 2"),
        ([found(-1)], "picture -1, but there are 2"),
        ([found(1, (0.5, 4, BOX))], "labels from 4 to 4, but there are 4 classes"),
    ],
)
def test_predictions_that_do_not_fit(predicted, message):
    with pytest.raises(ValueError, match=message):
        measured(dataset(record([BOX], [0]), record()), *predicted)

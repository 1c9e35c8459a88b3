import dataclasses
import json
import sys
from types import ModuleType

import numpy as np
import pytest

from dfine_jax.class_names import COCO_CLASSES
from dfine_jax.inference.detections import Box, Detection, Detections, class_ids

BOXES = np.array(
    [[344.49, 23.4, 639.84, 374.27], [40.46, 73.7, 175.62, 117.57], [0.59, 1.88, 640.25, 474.74]], np.float32
)
SCORES = np.array([0.96, 0.95, 0.52], np.float32)
LABELS = np.array([15, 65, 57], np.int32)


@pytest.fixture
def found() -> Detections:
    return Detections(BOXES, SCORES, LABELS, COCO_CLASSES, size=(640, 480), image="a.jpg")


@pytest.fixture
def nothing(found) -> Detections:
    return found[:0]


class TestSequence:
    def test_length_and_names(self, found, nothing):
        assert len(found) == 3
        assert found.names == ("cat", "remote", "couch")
        assert len(nothing) == 0
        assert nothing.names == ()
        assert list(nothing) == []

    def test_iteration_and_index(self, found):
        first = Detection("cat", 15, float(SCORES[0]), Box(*map(float, BOXES[0])))
        assert next(iter(found)) == first == found[0] == found[-3]
        assert [d.label for d in found] == ["cat", "remote", "couch"]
        assert type(found[0].score) is float
        assert type(found[0].label_id) is int
        with pytest.raises(IndexError):
            found[3]

    @pytest.mark.parametrize(
        ("which", "names"),
        [
            (slice(1), ("cat",)),
            (slice(None, None, -1), ("couch", "remote", "cat")),
            (np.array([True, False, True]), ("cat", "couch")),
            ([False, True, False], ("remote",)),
            (SCORES > 0.99, ()),
            ([2, 0], ("couch", "cat")),
            ([], ()),
        ],
    )
    def test_selection(self, found, which, names):
        chosen = found[which]
        assert chosen.names == names
        assert chosen.boxes.shape == (len(names), 4)
        assert (chosen.size, chosen.image) == (found.size, found.image)

    def test_a_mask_of_nothing(self, nothing):
        assert len(nothing[np.zeros(0, bool)]) == 0

    def test_shapes_have_to_agree(self, found):
        with pytest.raises(ValueError, match=r"boxes of shape \(2, 4\).*for 3 scores; expected \(3, 4\)"):
            dataclasses.replace(found, boxes=BOXES[:2])


class TestFilter:
    def test_threshold_is_exceeded_as_in_transformers(self, found):
        assert found.filter(threshold=0.9).names == ("cat", "remote")
        assert found.filter(threshold=float(SCORES[1])).names == ("cat",)
        assert len(found.filter(threshold=0)) == 3
        assert len(found.filter(threshold=1)) == 0

    @pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
    def test_threshold_outside_its_range(self, found, threshold):
        with pytest.raises(ValueError, match="from 0 to 1"):
            found.filter(threshold=threshold)

    def test_classes(self, found):
        assert found.filter(classes=["couch", "cat"]).names == ("cat", "couch")
        assert found.filter(classes=[65]).names == ("remote",)
        assert found.filter(classes=["dog"]).names == ()
        assert found.filter(classes=[]).names == ()
        assert found.filter(threshold=0.9, classes=["Couch", "CAT"]).names == ("cat",)

    def test_unknown_class_is_an_error_even_where_nothing_was_found(self, nothing):
        with pytest.raises(ValueError, match="no class 'cta'; did you mean cat"):
            nothing.filter(classes=["cta"])

    def test_above(self):
        found = Detections.above(
            0.9, SCORES, LABELS, BOXES, class_names=list(COCO_CLASSES), size=(640, 480), image="a.jpg"
        )
        assert found.names == ("cat", "remote")
        np.testing.assert_array_equal(found.boxes, BOXES[:2])


class TestClassIds:
    def test_names_and_ids(self):
        assert class_ids(["dog", "Cat ", 3, "7"], COCO_CLASSES) == [3, 7, 15, 16]
        assert class_ids("traffic light", COCO_CLASSES) == [9]

    def test_a_shared_name_gives_all_and_a_name_goes_before_an_id(self):
        assert class_ids(["a", "0"], ["a", "b", "a", "0"]) == [0, 2, 3]

    @pytest.mark.parametrize(
        ("wanted", "says"),
        [
            ("trafic light", "did you mean traffic light"),
            ("sofa", "the 80 classes are person, bicycle, car"),
            ("ball", "sports ball"),
            (80, "no class 80; ids go from 0 to 79"),
            (-1, "ids go from 0 to 79"),
            ("", "the 80 classes are"),
            (True, "no class True"),
        ],
    )
    def test_unknown(self, wanted, says):
        with pytest.raises(ValueError, match=says):
            class_ids([wanted], COCO_CLASSES)


class TestConversions:
    def test_to_dict(self, found):
        as_dict = found[:1].to_dict()
        assert as_dict == {
            "image": "a.jpg",
            "width": 640,
            "height": 480,
            "detections": [
                {"label": "cat", "label_id": 15, "score": float(SCORES[0]), "box": [float(edge) for edge in BOXES[0]]}
            ],
        }
        assert list(as_dict) == ["image", "width", "height", "detections"]
        assert list(as_dict["detections"][0]) == ["label", "label_id", "score", "box"]

    def test_json_keeps_all_digits(self, found):
        back = json.loads(json.dumps(found.to_dict()))
        np.testing.assert_array_equal(np.float32([d["score"] for d in back["detections"]]), SCORES)
        np.testing.assert_array_equal(np.float32([d["box"] for d in back["detections"]]), BOXES)

    def test_json_of_nothing(self, nothing):
        assert json.loads(json.dumps(nothing.to_dict()))["detections"] == []

    def test_to_supervision(self, found, nothing):
        supervision = pytest.importorskip("supervision")
        theirs = found.to_supervision()
        assert isinstance(theirs, supervision.Detections)
        np.testing.assert_array_equal(theirs.xyxy, BOXES)
        np.testing.assert_array_equal(theirs.confidence, SCORES)
        np.testing.assert_array_equal(theirs.class_id, LABELS)
        assert list(theirs["class_name"]) == ["cat", "remote", "couch"]
        assert len(nothing.to_supervision()) == 0

    def test_what_supervision_is_given(self, found, monkeypatch):
        stub = ModuleType("supervision")
        stub.Detections = lambda **fields: fields
        monkeypatch.setitem(sys.modules, "supervision", stub)
        fields = found.to_supervision()
        np.testing.assert_array_equal(fields["xyxy"], BOXES)
        np.testing.assert_array_equal(fields["confidence"], SCORES)
        np.testing.assert_array_equal(fields["class_id"], LABELS)
        assert list(fields["data"]["class_name"]) == ["cat", "remote", "couch"]

    def test_without_supervision(self, found, monkeypatch):
        monkeypatch.setitem(sys.modules, "supervision", None)
        with pytest.raises(ImportError, match="pip install supervision"):
            found.to_supervision()


def test_repr(found):
    lines = repr(found).splitlines()
    assert lines[0] == "Detections: 3 in a.jpg (640x480)"
    assert lines[1] == "  cat 0.96 [344.5, 23.4, 639.8, 374.3]"
    assert repr(found[np.zeros(25, int)]).splitlines()[-1] == "  and 15 more"

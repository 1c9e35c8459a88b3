"""Pictures with what was found in them, right or wrong, and what was missed, on one page."""

from PIL import Image

from dfine_jax.data.samples import Dataset, UnreadablePictureError
from dfine_jax.display import printable
from dfine_jax.evaluation.coco_metrics import Evaluation
from dfine_jax.evaluation.confusion import IGNORED, NOTHING, Verdict, judge, rows_by_picture
from dfine_jax.evaluation.tiles import BLUE, GREY, ORANGE, YELLOW, Entry, Frame, draw_tile, page_with_legend
from dfine_jax.evaluation.truth import Truth

RIGHT, WRONG, MISSED, IN_CROWD = BLUE, ORANGE, YELLOW, GREY
LEGEND = (
    Entry("right", RIGHT),
    Entry("wrong class or place", WRONG),
    Entry("missed", MISSED, dashed=True),
    Entry("in a crowd", IN_CROWD),
)
LONGEST_NAME = 40


def comparison_sheet(
    dataset: Dataset, evaluation: Evaluation, count: int = 12, *, columns: int = 4, tile: int = 320
) -> Image.Image:
    """Draws some pictures with the detections above the evaluation's threshold, each compared with the labels.

    The pictures are evenly spaced through the data set, so they are the same for any model. Those that can't be
    decoded are passed over.

    Args:
        dataset: the one that was evaluated on.
        evaluation: its result.
        count: how many to show; fewer if there are no more.
        columns: pictures a row.
        tile: width and height a picture gets at most, in pixels.
    """
    truth, rows_of = evaluation.truth, rows_by_picture(evaluation.truth)
    count = min(count, len(evaluation.predicted))
    tiles = []
    for predicted in (evaluation.predicted[i * len(evaluation.predicted) // count] for i in range(count)):
        verdict = judge(predicted, truth, rows_of[predicted.picture], evaluation.confusion.threshold)
        try:
            pixels = dataset.records[predicted.picture].pixels()
        except UnreadablePictureError:
            continue
        tiles.append(draw_tile(pixels, _frames(verdict, truth), tile))
    return page_with_legend(tiles, columns, tile, LEGEND)


def _frames(verdict: Verdict, truth: Truth) -> list[Frame]:
    """What was missed, then what was found from the worst to the best, so that the best lies on top."""
    names = [printable(name)[:LONGEST_NAME] for name in truth.class_names]
    frames = [Frame(truth.boxes[row], names[truth.labels[row]], MISSED, True) for row in verdict.missed]
    predicted = verdict.predicted
    for i in reversed(range(len(predicted.scores))):
        row, label = verdict.found[i], predicted.labels[i]
        right = row not in (NOTHING, IGNORED) and truth.labels[row] == label
        colour = RIGHT if right else IN_CROWD if row == IGNORED else WRONG
        frames.append(Frame(predicted.boxes[i], f"{names[label]} {predicted.scores[i]:.2f}", colour, False))
    return frames

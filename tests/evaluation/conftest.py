import numpy as np
import pytest
from evaluation_data import dataset, found, record


@pytest.fixture(scope="session")
def many():
    """Forty pictures with random boxes, some of them crowds, and random predictions around and beside them.

    The last class has predictions but no boxes. Scores have two decimals, so that there are ties.
    """
    rng = np.random.default_rng(5)

    def boxes(count):
        corner = rng.uniform(0, 400, (count, 2))
        return np.concatenate([corner, corner + rng.uniform(4, 220, (count, 2))], axis=1)

    records, predicted = [], []
    for picture in range(40):
        objects, crowds = boxes(rng.integers(0, 9)), boxes(rng.integers(0, 3))
        labels, crowd_labels = rng.integers(0, 3, len(objects)), rng.integers(0, 3, len(crowds))
        records.append(
            record(objects, labels, crowds, crowd_labels, image_id=f"picture-{picture}", width=640, height=640)
        )
        near = np.repeat(np.concatenate([objects, crowds]), 4, axis=0)
        near = near + rng.normal(0, 6, near.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        near_labels = np.repeat(np.concatenate([labels, crowd_labels]), 4)
        wrong = rng.random(len(near_labels)) < 0.2
        near_labels[wrong] = rng.integers(0, 4, wrong.sum())
        every = np.concatenate([near, boxes(60)])
        every_label = np.concatenate([near_labels, rng.integers(0, 4, 60)])
        scores = np.concatenate([rng.uniform(0.2, 1, len(near)), rng.uniform(0, 0.4, 60)]).round(2)
        order = np.argsort(-scores, kind="stable")
        predicted.append(found(picture, *zip(scores[order], every_label[order], every[order], strict=True)))
    return dataset(*records), predicted

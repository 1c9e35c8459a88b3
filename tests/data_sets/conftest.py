import numpy as np
import pytest
from dataset_files import make_record

from dfine_jax.data.samples import Dataset


@pytest.fixture
def tiny() -> Dataset:
    """Three pictures, one of them without boxes, one with a crowd; category ids with gaps."""
    crowd = dict(
        crowd_boxes=np.array([[1, 2, 30, 20]], np.float32),
        crowd_labels=np.array([1], np.int32),
        crowd_areas=np.array([551], np.float32),
    )
    records = [
        make_record(5, [[1, 2, 11, 22], [30.5, 10.25, 60.75, 40]], [0, 2]),
        make_record(9, [], []),
        make_record(12, [[0, 0, 64, 48]], [1], **crowd),
    ]
    return Dataset(("ant", "bee", "cow"), (3, 7, 90), records, 2)

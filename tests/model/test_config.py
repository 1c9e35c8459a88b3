import re
from dataclasses import replace

import numpy as np
import pytest
from tiny import TINY

from dfine_jax.class_names import COCO_CLASSES
from dfine_jax.config import DFineConfig
from dfine_jax.model.dfine import DFine, variables

# In millions, as published.
PARAMETERS = {"n": 4, "s": 10, "m": 19, "l": 31, "x": 62}


@pytest.mark.parametrize("size", PARAMETERS)
def test_sizes_have_about_the_published_number_of_parameters(size):
    params, _ = variables(DFine(DFineConfig.from_size(size)))
    assert sum(np.prod(x.shape) for x in params.values()) == pytest.approx(PARAMETERS[size] * 1e6, rel=0.06)


def test_sizes_by_letter_and_by_name():
    by_name = DFineConfig.nano(), DFineConfig.small(), DFineConfig.medium(), DFineConfig.large(), DFineConfig.xlarge()
    assert tuple(map(DFineConfig.from_size, "nsmlx")) == by_name
    assert len(set(by_name)) == 5  # hashable and different
    with pytest.raises(ValueError, match=r"'xxl'.*n, s, m, l, x"):
        DFineConfig.from_size("xxl")


def test_what_follows_from_a_config():
    nano, xlarge = DFineConfig.nano(), DFineConfig.xlarge()
    assert nano.num_classes == 80
    assert nano.class_names == COCO_CLASSES
    assert nano.backbone.out_channels == (512, 1024)
    assert (nano.encoder.csp_channels, nano.encoder.csp_blocks) == (21, 2)
    assert (xlarge.encoder.csp_channels, xlarge.encoder.csp_blocks) == (192, 3)
    assert nano.decoder.levels == 2
    assert nano.extra_levels == 0
    assert nano.decoder.last_layer == 2
    extra = replace(nano, decoder=replace(nano.decoder, points=(3, 6, 3), eval_layer=1, layer_scale=2.0))
    assert extra.extra_levels == 1
    assert extra.decoder.last_layer == 1
    assert extra.decoder.wide == 256


def test_other_classes():
    config = TINY.with_classes(["red", "blood", "cell"])
    assert config.num_classes == 3
    assert hash(config) != hash(TINY)
    assert replace(config, class_names=TINY.class_names) == TINY


IMPOSSIBLE = [
    ({"class_names": ()}, "class_names"),
    ({"backbone.out_stages": ()}, "backbone.out_stages"),
    ({"encoder.width": 18}, "encoder.width"),
    ({"encoder.heads": 3}, "encoder.heads"),
    ({"encoder.attention_levels": (2,)}, "encoder.attention_levels"),
    ({"encoder.attention_levels": (-1,)}, "encoder.attention_levels"),
    ({"decoder.heads": 3}, "decoder.heads"),
    ({"decoder.points": (4,)}, "decoder.points"),
    ({"decoder.layers": 0}, "decoder.layers"),
    ({"decoder.eval_layer": 2}, "decoder.eval_layer"),
    ({"decoder.eval_layer": -3}, "decoder.eval_layer"),
    ({"decoder.bins": 7}, "decoder.bins"),
    ({"decoder.bins": 2}, "decoder.bins"),
    ({"decoder.quality_top": 10}, "decoder.quality_top"),
    ({"decoder.method": "nearest"}, "decoder.method"),
    ({"decoder.eval_layer": 0, "decoder.layer_scale": 1.5}, "decoder.layer_scale"),
]


@pytest.mark.parametrize(("changes", "field"), IMPOSSIBLE)
def test_impossible_values_are_refused_by_name(changes, field):
    with pytest.raises(ValueError, match=re.escape(f"{field} = {changes[field]!r} ")) as caught:
        changed(changes)
    assert "\n" not in str(caught.value)


def test_possible_values_at_the_same_borders():
    for changes in (
        {"encoder.attention_levels": ()},
        {"decoder.eval_layer": -2},
        {"decoder.quality_top": 9},
        {"decoder.bins": 4},
        {"decoder.layer_scale": 1.5},  # no layers past the one that counts
        {"decoder.eval_layer": 0, "decoder.layer_scale": 2},
        {"decoder.points": (1, 2, 3, 4)},
    ):
        changed(changes)


def changed(changes: dict[str, object]) -> DFineConfig:
    config = TINY
    for field, value in changes.items():
        if "." in field:
            part, field = field.split(".")
            # Together, so that one change is not refused before the next is made.
            others = {name.split(".")[1]: v for name, v in changes.items() if name.startswith(f"{part}.")}
            config = replace(config, **{part: replace(getattr(TINY, part), **others)})
        else:
            config = replace(config, **{field: value})
    return config

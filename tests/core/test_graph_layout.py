"""What was timed to choose a compaction survives JSON, infinities included."""

import json
import math

import pytest

from rotated_relu.core.errors import ArgumentError
from rotated_relu.core.graph_layout import GraphLayout, Tuned


@pytest.mark.parametrize("layout", [None, GraphLayout("narrowest streams", 1, math.inf, 1024)])
def test_tuned_survives_strict_json(layout):
    tuned = Tuned("openvino", (1, 64), layout)
    assert Tuned.from_dict(json.loads(json.dumps(tuned.to_dict(), allow_nan=False))) == tuned


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": ""}, "a layout needs a name"),
        ({"round_to": 0}, "layout 'mine': round_to must be an integer of at least 1, got 0"),
        ({"round_to": 1.5}, "layout 'mine': round_to must be an integer of at least 1, got 1.5"),
        ({"narrowing_bias": math.nan}, "layout 'mine': narrowing_bias must be at least 0, got nan"),
        ({"convolution_limit": -1}, "layout 'mine': convolution_limit must be at least 0, got -1"),
    ],
)
def test_layouts_that_make_no_sense(settings, message):
    with pytest.raises(ArgumentError, match=message):
        GraphLayout(**{"name": "mine", **settings})

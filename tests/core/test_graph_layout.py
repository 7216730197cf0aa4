"""What was timed to choose a compaction survives JSON, infinities included."""

import json
import math

import pytest

from rotated_relu.core.graph_layout import GraphLayout, Tuned


@pytest.mark.parametrize("layout", [None, GraphLayout("narrowest streams", 1, math.inf, 1024)])
def test_tuned_survives_strict_json(layout):
    tuned = Tuned("openvino", (1, 64), layout)
    assert Tuned.from_dict(json.loads(json.dumps(tuned.to_dict(), allow_nan=False))) == tuned

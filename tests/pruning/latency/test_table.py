"""Tables as files, and what they lack in words."""

import dataclasses
import json

import pytest
import torch

import rotated_relu as rr
from rotated_relu.core.errors import ArgumentError, FileFormatError, LatencyError
from rotated_relu.pruning.latency.geometry import LayerGeometry
from rotated_relu.pruning.latency.grid import LatencyGrid
from support.latency_tables import table_of

CONV = LayerGeometry("conv", (32, 32), (3, 3), (1, 1), (1, 1), (1, 1))
LINEAR = LayerGeometry("linear", activation="gelu")
TABLE = table_of(
    {CONV: LatencyGrid((8, 16), (8,), ((1.0,), (1.5,)), 8, 8), LINEAR: LatencyGrid((10,), (4,), ((0.25,),))},
    0.125,
)


def test_a_table_comes_back_as_it_was(tmp_path):
    TABLE.save(tmp_path / "table.json")
    assert rr.LatencyTable.load(tmp_path / "table.json") == TABLE
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.json"]


def test_times_and_steps_of_a_layer():
    assert TABLE.milliseconds(CONV, 12, 5) == 1.5
    assert TABLE.steps(CONV) == ([8, 16], [8])


def test_a_layer_is_found_in_the_form_that_an_exported_graph_has_it_in():
    norm = LayerGeometry(**{**vars(CONV), "norm": True, "activation": "relu", "slopes": True})
    assert TABLE.milliseconds(norm, 8, 8) == 1.0
    with pytest.raises(
        LatencyError, match=r"toy 1, abacus, 1 thread, batch 1, fp32\) has no times of conv 3x3 on "
    ):
        TABLE.milliseconds(LayerGeometry(**{**vars(CONV), "activation": "silu"}), 8, 8)


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (CONV, "conv 3x3 on 32x32"),
        (LINEAR, "linear + gelu"),
        (
            LayerGeometry(
                "conv", (8, 8), (5, 3), (2, 2), group=(1, 1), norm=True, addition=True, slopes=True
            ),
            "depthwise conv 5x3 /2 on 8x8 + norm + add + slopes",
        ),
    ],
)
def test_geometries_in_words(geometry, words):
    assert str(geometry) == words


def changed(**fields):
    return json.dumps({**TABLE.to_dict(), **fields})


def entry(geometry=None, grid=None):
    good = TABLE.to_dict()["entries"][0]
    return [{"geometry": {**good["geometry"], **(geometry or {})}, "grid": {**good["grid"], **(grid or {})}}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", "is no latency table"),
        ("[]", 'no "format"'),
        ("{}", 'no "format"'),
        ("[" * 100_000, "is no latency table"),
        (changed(version=2), "version 2, this release reads version 1"),
        (changed(engine=7), r"table\.engine must be str"),
        (changed(batch_size=0), "batch_size must be at least 1"),
        (changed(threads=True), r"table\.threads must be int"),
        (changed(precision="fp17"), "precision must be one of fp32, int8"),
        (changed(call_ms=float("nan")), "call_ms must be a finite number"),
        (changed(colour="blue"), "has no field 'colour'"),
        (changed(entries={}), r"table\.entries must be"),
        (changed(entries=entry(geometry={"kernel": ["3", "3"]})), "kernel must be int, got '3'"),
        (changed(entries=entry(geometry={"shape": []})), "has no field 'shape'"),
        (changed(entries=entry(grid={"inputs": [16, 8]})), "must be widths that ascend"),
        (changed(entries=entry(grid={"milliseconds": [[1.0]]})), "2 x 1 widths"),
        (changed(entries=entry(grid={"output_step": 0})), "steps must be at least 1"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_message(tmp_path, text, message):
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=message):
        rr.LatencyTable.load(path)


def test_a_file_that_is_not_there_or_cannot_be_written(tmp_path):
    with pytest.raises(FileFormatError, match=r"cannot read .*none\.json: No such file"):
        rr.LatencyTable.load(tmp_path / "none.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(FileFormatError, match="is no latency table"):
        rr.LatencyTable.load(tmp_path / "binary.json")
    with pytest.raises(LatencyError, match="cannot write"):
        TABLE.save(tmp_path / "missing" / "table.json")


@pytest.mark.parametrize(
    "changes", [{"threads": "2"}, {"batch_size": [1]}, {"call_ms": None}, {"entries": {"conv": 3.0}}]
)
def test_fields_are_held_to_their_kinds(changes):
    with pytest.raises(ArgumentError, match=f"LatencyTable: {next(iter(changes))} must be"):
        dataclasses.replace(TABLE, **changes)


@pytest.mark.parametrize("geometry", [None, "conv", -1, [None], {1}])
def test_what_is_no_geometry_is_refused(geometry):
    for ask in (TABLE.steps, TABLE.find, lambda one: TABLE.milliseconds(one, 1, 1)):
        with pytest.raises(ArgumentError, match="a table has times of a LayerGeometry, not of"):
            ask(geometry)


@pytest.mark.parametrize("width", [None, "8", [8], torch.full((2, 4), torch.nan)])
def test_what_is_no_width_is_refused(width):
    with pytest.raises(ArgumentError, match="widths must be whole numbers"):
        TABLE.milliseconds(next(iter(TABLE.entries)), width, 8)


def test_plain_data_of_another_kind_is_one_error():
    data = TABLE.to_dict()
    assert rr.LatencyTable.from_dict(data) == TABLE
    data["entries"][0]["grid"]["outputs"] = "8"
    with pytest.raises(LatencyError, match=r"grid\.outputs must be"):
        rr.LatencyTable.from_dict(data)

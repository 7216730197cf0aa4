"""Tables in Markdown."""

import pytest

from rotated_relu.experiments.report.markdown import markdown_table
from rotated_relu.experiments.report.words import MINUS


def test_numbers_are_aligned_to_the_right_and_bars_within_cells_are_escaped():
    rows = [
        ("a|b", "**+0.3**", "1.2e-07", "61.11 M", "91.4 ± 0.2", "12 ms", ""),
        ("3 of 4", f"{MINUS}2,031 %", "0", "4 G", "", 7, ""),
    ]
    assert markdown_table(["name", "b", "c", "d", "e", "f", "g"], rows).split("\n") == [
        "| name | b | c | d | e | f | g |",
        "| --- | --: | --: | --: | --: | --: | --- |",
        "| a\\|b | **+0.3** | 1.2e-07 | 61.11 M | 91.4 ± 0.2 | 12 ms |  |",
        f"| 3 of 4 | {MINUS}2,031 % | 0 | 4 G |  | 7 |  |",
    ]


def test_without_rows_it_is_its_head():
    assert markdown_table(["a", "b"], []) == "| a | b |\n| --- | --- |"


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        markdown_table(["a", "b"], [["1"]])

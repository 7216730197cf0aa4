"""The pages of the site name what exists, and leave out nothing that is public."""

import re
from pathlib import Path

import pytest

import rotated_relu as rr

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ROOMS = "core|graph|nn|pruning|deploy|training|integrations|experiments|cli"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT / "docs")))
def test_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    ours = re.findall(rf"`((?:{ROOMS})/[\w/]+(?:\.py|/)?)`", text)
    others = re.findall(r"`((?:benchmarks|tests|results)/[\w./-]+)`", text)
    missing = [path for path in ours if not (ROOT / "src" / "rotated_relu" / path).exists()]
    assert missing + [path for path in others if not (ROOT / path).exists()] == []


def test_every_public_name_is_in_the_reference():
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: rotated_relu\.(\w+)$", pages, flags=re.MULTILINE))
    whole_modules = {"errors", "models", "RotatedReLUError", "RotatedReLUWarning"}
    assert set(rr.__all__) - whole_modules <= shown


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:")[1]
    listed = set(re.findall(r"([\w/-]+\.md)$", navigation, flags=re.MULTILINE))
    assert listed == {str(page.relative_to(ROOT / "docs")) for page in PAGES}


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_have_as_many_cells_in_every_row(page):
    """Else the site shows their text."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for table in re.findall(r"(?:^\|.*\n?)+", text, flags=re.MULTILINE):
        lines = table.splitlines()
        assert set(lines[1]) <= set("|-: "), f"no rule under {lines[0]}"
        cells = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
        assert len(set(cells)) == 1, f"{cells} bars in the rows under {lines[0]}"

"""Rooms of the package: which there are, and that imports between them point one way.

``python tests/test_architecture.py`` prints them from the top floor down, with what each imports.
"""

import ast
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "rotated_relu"

# Each floor may import those before it; the rooms of one floor do not import each other.
FLOORS = [
    ["core"],
    ["graph"],
    ["nn"],
    ["pruning"],
    ["deploy", "training", "integrations"],
    ["experiments"],
    ["cli"],
]
ROOMS = [room for floor in FLOORS for room in floor]


def room_of(path):
    return path.relative_to(PACKAGE).parts[0]


def modules_named(path):
    """Dotted names below the package that a file's imports name, anywhere in it."""
    package = path.relative_to(PACKAGE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
            yield from (name[1:] for name in names if name[0] == "rotated_relu")
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            if node.level:
                base = [*package[: len(package) - node.level + 1], *module]
            elif module[0] == "rotated_relu":
                base = module[1:]
            else:
                continue
            yield from ([*base, alias.name] for alias in node.names)


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_the_top_level_holds_the_rooms_and_nothing_else():
    git = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "."]
    listed = subprocess.run(git, cwd=PACKAGE, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    there = {line.split("/")[0] for line in listed.stdout.splitlines() if (PACKAGE / line).exists()}
    assert there == {*ROOMS, "__init__.py", "py.typed"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path):
    own = room_of(path)
    floor = next(number for number, rooms in enumerate(FLOORS) if own in rooms)
    allowed = {own, *(room for rooms in FLOORS[:floor] for room in rooms)}
    imported = {name[0] for name in modules_named(path) if name and name[0] in ROOMS}
    assert imported - allowed == set()


def circles():
    """Files that import each other, directly or around a circle, imports inside functions included."""
    names = {path.relative_to(PACKAGE).with_suffix("").parts: path for path in FILES}
    arrows = {
        name: {
            target[:length]
            for target in map(tuple, modules_named(path))
            for length in (len(target), len(target) - 1)
            if target[:length] in names and target[:length] != name
        }
        for name, path in names.items()
    }
    while free := {name for name, targets in arrows.items() if not targets & arrows.keys()}:
        arrows = {name: targets for name, targets in arrows.items() if name not in free}
    return sorted(".".join(name) for name in arrows)


def test_no_two_files_import_each_other():
    assert circles() == []


@pytest.mark.parametrize(
    "heavy",
    [
        "lightning",
        "lightning_fabric",
        "datasets",
        "plotly",
        "torchvision",
        "onnxruntime",
        "onnx",
        "torchattack",
        "torch_pruning",
    ],
)
def test_heavy_libraries_are_imported_where_they_are_used(heavy):
    """None of them at the top of a file that ``import rotated_relu`` reads; measured in test_cli as well."""
    for path in FILES:
        if room_of(path) in ("training", "experiments", "integrations"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert heavy not in {name.split(".")[0] for name in names}, path


def test_only_one_place_exports_graphs():
    """``torch.export`` changes between releases: one file stands between it and the rest."""
    users = {
        room_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.export.")
    }
    assert users <= {"graph", "deploy"}


def test_nothing_is_unpickled():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "pickle.load",
                "pickle.loads",
            ):
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"


def drawing():
    """The rooms, top floor first."""
    for number in range(len(FLOORS), 0, -1):
        for room in FLOORS[number - 1]:
            files = [path for path in FILES if room_of(path) == room]
            lines = sum(path.read_text(encoding="utf-8").count("\n") for path in files)
            below = {name[0] for path in files for name in modules_named(path) if name} & set(ROOMS) - {room}
            uses = ", ".join(other for other in ROOMS if other in below) or "nothing of ours"
            yield f"floor {number}  {room}: {len(files)} files, {lines} lines; imports {uses}"
    yield f"circles: {', '.join(circles()) or 'none'}"


if __name__ == "__main__":
    print("\n".join(drawing()))

"""Imports inside the package point one way: up this list, never down."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "src" / "rotated_relu"

# Each may import those above it. A folder is one entry; inside it files may import each other.
LAYERS = [
    "errors",
    "atomic",
    "activation",
    "graph",
    "fast",
    "sites",
    "rotate",
    "importance",
    "penalty",
    "integrations",
    "liveness",
    "compact",
    "remaining",
    "budget",
    "latency",
    "contest",
    "onnx_views",
    "onnx_narrow",
    "onnx_slopes",
    "onnx_session",
    "openvino_session",
    "export",
    "onnx_int8",
    "measure",
    "rounding",
    "paper_count",
    "paper_graph",
    "paper_networks",
    "paths",
    "threshold",
    "models",
    "decoding",
    "stored",
    "data",
    "run",
    "training",
    "compare",
    "attack",
    "report",
    "cli",
]


def layer_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_layers(path):
    """Names of the package's layers that a file imports, anywhere in it."""
    depth = len(path.relative_to(PACKAGE).parts)  # 1 for a file at the top of the package
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            # "from . import a" at the top names layers, "from .a import b" names one.
            names = (
                [f"rotated_relu.{node.module}"]
                if node.module
                else [f"rotated_relu.{a.name}" for a in node.names]
            )
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = []
        found |= {name.split(".")[1] for name in names if name.startswith("rotated_relu.")}
    return found


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_every_file_has_a_layer():
    assert {layer_of(path) for path in FILES} - set(LAYERS) == set()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_up(path):
    own = layer_of(path)
    above = set(LAYERS[: LAYERS.index(own) + 1])
    assert imported_layers(path) - above == set()


@pytest.mark.parametrize(
    "heavy",
    ["lightning", "datasets", "plotly", "torchvision", "onnxruntime", "onnx", "torchattack", "torch_pruning"],
)
def test_heavy_libraries_are_imported_where_they_are_used(heavy):
    """None of them at the top of a file that ``import rotated_relu`` reads; measured in test_cli as well."""
    for path in FILES:
        if layer_of(path) in ("training", "report", "data", "integrations"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            assert heavy not in {name.split(".")[0] for name in names}, path


def test_only_one_place_exports_graphs():
    """``torch.export`` changes between releases: one file stands between it and the rest."""
    users = {
        layer_of(path)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("torch.export.")
    }
    assert users <= {"graph", "export"}


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

"""Optional packages: one line says which extra brings what is missing, and pyproject.toml agrees."""

import ast
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from rotated_relu.core.errors import MissingPackageError, RotatedReLUError
from rotated_relu.core.extras import EXTRAS, is_installed, needs, only_the_version

if sys.version_info >= (3, 11):
    import tomllib
else:  # pytest brings it
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "rotated_relu"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CORE = {"torch", "numpy", "scipy", "safetensors"}
ALONG = {
    "datasets": {"huggingface_hub"},
    "pydantic": {"annotated_types", "pydantic_core", "typing_extensions"},
}  # what a package brings and re-exports
# Where a package is installed under another name than it is imported by.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "lightning_fabric": "lightning-fabric",
    "torch_pruning": "torch-pruning",
    "onnx_ir": "onnx-ir",
    "modelopt": "nvidia-modelopt",
}
# Tools to compare with, one of which needs an old release of a package: nobody gets them unasked.
APART = {"rivals"}


def names(requirements):
    return {re.match(r"[\w.-]+", requirement).group() for requirement in requirements}


def test_nothing_is_said_of_packages_that_are_there():
    needs("PIL", "rich")


def test_one_line_names_the_package_and_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingPackageError) as caught:
        needs("onnx", "onnxruntime")
    assert str(caught.value) == "onnxruntime is not installed: pip install 'rotated-relu[onnx]'"
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, RotatedReLUError)


def test_packages_of_several_extras_are_named_together(monkeypatch):
    for package in ("plotly", "typer"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=r"^plotly, typer are not .*\[cli,report\]'$"):
        needs("plotly", "typer", "rich")


def test_a_package_is_found_without_being_imported():
    assert is_installed("this")
    assert "this" not in sys.modules
    assert not is_installed("no_such_package")


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """A package of version 1.2 that notes each import of it."""
    (tmp_path / "counted.py").write_text(
        "__version__ = '1.2'\nimport os\nopen(os.environ['IMPORTS'], 'a').write('x')\n"
    )
    (tmp_path / "counted-1.2.dist-info").mkdir()
    (tmp_path / "counted-1.2.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: counted\nVersion: 1.2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IMPORTS", str(tmp_path / "imports"))
    yield tmp_path / "imports"
    sys.modules.pop("counted", None)


def test_a_version_is_told_without_importing_the_package(counted):
    with only_the_version("counted"):
        assert import_module("counted").__version__ == "1.2"
        assert is_installed("counted")
    assert not counted.exists()
    import_module("counted")
    assert counted.read_text() == "x"


def test_a_package_that_is_imported_already_stays_itself(counted):
    known = import_module("counted")
    with only_the_version("counted"):
        assert import_module("counted") is known
    assert sys.modules["counted"] is known


def test_a_package_without_a_version_is_imported_as_ever():
    with only_the_version("no_such_package"), pytest.raises(ModuleNotFoundError):
        import_module("no_such_package")


def test_the_core_needs_four_packages():
    assert names(PROJECT["dependencies"]) == CORE


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_project_file_brings_what_an_extra_promises(extra):
    brought = names(PROJECT["optional-dependencies"][extra]) - {"rotated-relu"}
    assert brought == {DISTRIBUTIONS.get(package, package) for package in EXTRAS[extra]}


def test_all_means_all():
    (requirement,) = PROJECT["optional-dependencies"]["all"]
    assert set(re.search(r"\[(.*)\]", requirement).group(1).split(",")) == set(EXTRAS) - APART


def imported(tree):
    """Top-level packages that a file imports anywhere but under ``if TYPE_CHECKING``."""
    hidden = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in set(ast.walk(tree)) - hidden:
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


def asked_for(tree):
    """Packages that a file asks for with ``needs``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "needs":
            for argument in node.args:
                if isinstance(argument, ast.Constant):
                    yield argument.value
                elif isinstance(argument, ast.Starred) and isinstance(argument.value, ast.Subscript):
                    # needs(*EXTRAS["onnx"])
                    yield from EXTRAS[ast.literal_eval(argument.value.slice)]


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_optional_packages_are_asked_for_where_they_are_imported(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    optional = set(imported(tree)) - CORE - set(sys.stdlib_module_names) - {"rotated_relu"}
    promised = {package for brought in EXTRAS.values() for package in brought}
    assert optional - set().union(*ALONG.values()) <= promised
    given = set()
    if path.is_relative_to(PACKAGE / "cli"):
        given |= set(EXTRAS["cli"])  # main() asks before it imports the verbs
    if path.is_relative_to(PACKAGE / "training"):
        given |= {"pydantic", *ALONG["pydantic"]}  # asked for by its __init__
    if path.is_relative_to(PACKAGE / "deploy" / "passes"):
        given |= {"onnx_ir"}  # passes are handed a graph of it
    asked = set(asked_for(tree))
    asked |= {name for package in asked & ALONG.keys() for name in ALONG[package]}
    assert optional - given <= asked


def test_the_command_line_without_its_packages_is_one_line(monkeypatch):
    from rotated_relu import cli

    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == "error: typer is not installed: pip install 'rotated-relu[cli]'"

"""The public names: complete, functions where a submodule has the same name, and cheap to import."""

import subprocess
import sys
import types

import rotated_relu as rr


def test_every_public_name_resolves():
    for name in rr.__all__:
        assert getattr(rr, name) is not None


def test_submodules_of_the_same_name_do_not_hide_functions():
    code = (
        "import rotated_relu.deploy.measure, rotated_relu.pruning.removal, rotated_relu.nn.rotate, rotated_relu as rr\n"
        "assert all(callable(f) for f in (rr.measure, rr.compact, rr.rotate)), rr.rotate"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not isinstance(rr.compact, types.ModuleType)


def test_importing_the_package_and_asking_for_help_does_not_import_torch():
    code = (
        "import sys, rotated_relu.cli as cli\n"
        "sys.argv = ['rotated-relu', '--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)

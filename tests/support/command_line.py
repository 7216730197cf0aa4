"""The command line, called within the process of the test."""

import pytest

from rotated_relu import cli


def call(capsys, *arguments):
    """Exit code, stdout and stderr of ``rotated-relu ARGUMENTS``."""
    capsys.readouterr()
    code = exit_code(*arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def done(*arguments):
    """Run ``rotated-relu ARGUMENTS``, which must succeed."""
    assert exit_code(*arguments) == 0


def exit_code(*arguments):
    """Of ``rotated-relu ARGUMENTS``."""
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    return stopped.value.code

"""Whether anything can be compiled is found out before the work."""

import pytest
import torch

from rotated_relu.core import compiler
from rotated_relu.core.errors import CompilerError
from rotated_relu.deploy.engines import engine_named


class InvalidCxxCompiler(RuntimeError):
    """As the compiler's package raises it."""


@pytest.fixture
def without_compiler(monkeypatch):
    def compile_to_failure(function, **options):
        def call(x):
            raise InvalidCxxCompiler("No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")

        return call

    monkeypatch.setattr(torch, "compile", compile_to_failure)
    compiler.need_compiler.cache_clear()
    yield
    compiler.need_compiler.cache_clear()


def test_says_what_is_missing(without_compiler):
    with pytest.raises(CompilerError, match=r"No working C\+\+ compiler found\): .*g\+\+ or clang"):
        compiler.need_compiler("cpu")


def test_an_engine_that_compiles_is_refused_when_it_is_named(without_compiler):
    with pytest.raises(CompilerError):
        engine_named("torch.compile")
    assert engine_named("torch").name == "torch"


def test_asks_once(monkeypatch):
    calls = []
    compiler.need_compiler.cache_clear()
    monkeypatch.setattr(torch, "compile", lambda function, **options: calls.append(function) or function)
    compiler.need_compiler("cpu")
    compiler.need_compiler("cpu")
    assert len(calls) == 1
    compiler.need_compiler.cache_clear()

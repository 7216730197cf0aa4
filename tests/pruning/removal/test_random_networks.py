"""Random networks: liveness is sound and sharp, compaction exact. 200 of them; benchmarks/ has many more."""

import gc

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support import network_checks
from support.random_networks import (
    INPUT_SETS,
    LARGEST,
    OPERATIONS,
    PICKS,
    THRESHOLD,
    Program,
    RandomNetwork,
    example_inputs,
)

# Without operations whose values have a sign or an invariance that zero patterns do not know (see the benchmark).
STRUCTURAL = tuple(
    sorted(
        set(OPERATIONS) - {"number", "plain", "norm", "attention", "constant", "reduce", "multiply", "hidden"}
    )
)


def programs(operations, longest):
    """Programs that shrink by dropping steps and by lowering numbers."""
    step = st.tuples(st.sampled_from(operations), st.tuples(*[st.integers(0, LARGEST)] * PICKS))
    return st.builds(
        Program,
        inputs=st.sampled_from(INPUT_SETS),
        steps=st.lists(step, min_size=1, max_size=longest).map(tuple),
        seed=st.integers(0, 2**16),
        form=st.integers(0, 63),
    )


@pytest.fixture(autouse=True, scope="module")
def frozen_heap():
    """Torch's own objects need not be searched for garbage after every export: a sixth of the time."""
    gc.freeze()
    yield
    gc.unfreeze()


def run(program, sharp):
    torch.set_num_threads(1)
    return network_checks.check(
        RandomNetwork(program), example_inputs(program, batch=3, seed=1), THRESHOLD, sharp=sharp
    )


options = settings(
    deadline=None,
    derandomize=True,  # the same networks in every run: new ones are searched for by the benchmark
    database=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


@pytest.mark.slow
@settings(options, max_examples=150)
@given(program=programs(OPERATIONS, 12))
def test_random_networks_are_sound_exact_and_never_refused(program):
    verdict = run(program, sharp=False)
    assert verdict.good, (verdict, program.to_json())


@pytest.mark.slow
@settings(options, max_examples=50)
@given(program=programs(STRUCTURAL, 3))
def test_tiny_networks_are_as_sharp_as_brute_force(program):
    verdict = run(program, sharp=True)
    assert verdict.good, (verdict, program.to_json())
    assert verdict.misses == {}, (verdict, program.to_json())


def test_a_program_is_one_line_of_text_and_always_the_same_network():
    program = Program.from_seed(7)
    again = Program.from_json(program.to_json())
    assert again == program
    one, other = RandomNetwork(program), RandomNetwork(again)
    inputs = tuple(value.float() for value in example_inputs(program))
    for a, b in zip(network_checks.outputs(one, inputs), network_checks.outputs(other, inputs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_operation_of_the_grammar_appears(operation):
    """A rule that never applies would test nothing: each changes some network."""
    before = (("conv", (0,) * PICKS),) if operation in ("again", "tied") else ()
    for number in range(LARGEST + 1):
        for inputs in (("image",), ("tokens",), ("image", "vector")):
            built = RandomNetwork(Program(inputs, (*before, (operation, (number,) * PICKS))))
            without = RandomNetwork(Program(inputs, before))
            if list(built._modules) != list(without._modules) or len(built.calls) != len(without.calls):
                return
    raise AssertionError(operation)

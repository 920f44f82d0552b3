"""The transformer block's CPU kernels against their float64 references."""

import numpy as np
import pytest

import kernels
from kernels import cases

ours = kernels.SETS["cpu"]


@pytest.mark.parametrize("seed", [1, 2])
def test_every_case_against_float64(seed):
    checked = dict.fromkeys(kernels.OPERATIONS["block"], 0)
    for operation, function, args, kw in cases.cases(np.random.default_rng(seed)):
        if operation == "block":
            exact_args = cases.double(args)
            want = cases.reference(function)(*exact_args, **kw)
            got = getattr(ours, function)(*args, **kw)
            if function == "block_with_cache":  # keys and values of the new tokens are results too
                want, got = (want, *exact_args[2:]), (got, *args[2:])
            assert cases.error(got, want) < 4e-6, cases.describe(function, args, kw)
            checked[function] += 1
    assert min(checked.values()) >= 6

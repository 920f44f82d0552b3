"""Results of the same program in minigrad and PyTorch, side by side."""

import numpy as np

import minigrad as mg


def parts_of(result):
    """A result, or each of a list of results: tensors as (dtype, shape, values), anything else as text."""
    return [_part(part) for part in (result if isinstance(result, list) else [result])]


def _part(part):
    if isinstance(part, mg.Tensor) or hasattr(part, "detach"):
        return str(part.dtype).removeprefix("torch."), tuple(part.shape), np.asarray(part.detach().numpy(), np.float64)
    return str(tuple(part) if type(part).__name__ == "Size" else part).removeprefix("torch.")


def assert_same(ours, theirs):
    """Both refused (None), or every part agrees: values to a relative 1e-5, the rest exactly."""
    assert (ours is None) == (theirs is None), f"minigrad {ours}, PyTorch {theirs}"
    for our_part, their_part in zip(ours or [], theirs or [], strict=True):
        if isinstance(our_part, tuple):
            assert our_part[:2] == their_part[:2]
            np.testing.assert_allclose(our_part[2], their_part[2], rtol=1e-5)
        else:
            assert our_part == their_part

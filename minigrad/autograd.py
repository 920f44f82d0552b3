"""Function, gradients of chosen tensors, and the switches for recording and checking the graph, under PyTorch's module name."""

import typing as _typing
from collections.abc import Sequence
from functools import partial
from typing import Any

from minigrad.accumulate import GradientSums
from minigrad.engine import walk_back
from minigrad.function import Function
from minigrad.modes import detect_anomaly, enable_grad, inference_mode, is_grad_enabled, no_grad
from minigrad.tensor import Tensor

__all__ = ["Function", "detect_anomaly", "enable_grad", "grad", "inference_mode", "is_grad_enabled", "no_grad"]


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool = False,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of the outputs' sum with respect to the inputs. No .grad changes.

    Args:
        outputs: one tensor or several.
        inputs: leaves or interior tensors that require grad.
        grad_outputs: the upstream gradient of each output; None counts as 1 for an output of one element.
        retain_graph: keep the operations' saved arrays, so that the graph can be differentiated again.
        create_graph: not implemented; a gradient has no gradient of its own.
        allow_unused: return None for an input that no output depends on, instead of raising RuntimeError.

    >>> import minigrad as mg
    >>> x = mg.tensor([1.0, 2.0], requires_grad=True)
    >>> grad((x * x).sum(), x)
    (tensor([2., 4.]),)
    """
    if create_graph:
        raise NotImplementedError("grad: create_graph is not implemented; minigrad computes first derivatives")
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    upstreams = [grad_outputs] * len(outputs) if grad_outputs is None or isinstance(grad_outputs, Tensor) else [*grad_outputs]
    if len(upstreams) != len(outputs):
        raise RuntimeError(f"grad: expected a gradient for each of {len(outputs)} outputs, got {len(upstreams)}")
    if not all(t.requires_grad for t in inputs):
        raise RuntimeError("grad: an input does not require grad; create it with requires_grad=True")
    results: list[Any] = [None] * len(inputs)
    arrays = [output.upstream(upstream) for output, upstream in zip(outputs, upstreams)]
    handles = [t.register_hook(partial(results.__setitem__, i)) for i, t in enumerate(inputs)]
    try:
        walk_back(outputs, arrays, GradientSums(in_place=False, into_leaves=False), retain_graph)
    finally:
        for handle in handles:
            handle.remove()
    if not allow_unused and any(result is None for result in results):
        raise RuntimeError("grad: an input was not used to compute the outputs; pass allow_unused=True to get None for it")
    return tuple(results)


if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.autograd has no {name!r}; it has {', '.join(__all__)}")

"""What notebooks show of tensors and modules, as HTML, and the short texts of a tensor's numbers that drawings share."""

from html import escape
from typing import Any

import numpy as np

import kernels
from kernels.terminal import visible

SMALL = 4  # numbers of a tensor that fit into a line
LONGEST, ENDS = 10, 4  # an axis with more than 10 entries shows its first and last 4


def small_values(tensor: Any) -> str:
    """The numbers on one line; "" if there are more than four."""
    if tensor.array.size > SMALL:
        return ""
    array = kernels.to_device(tensor.array, "cpu")
    return " ".join(np.array2string(array, separator=", ", formatter={"all": number_text}).split())


def number_text(number: Any) -> str:
    """A number by itself, with at most four digits after the point: NumPy would pad the numbers of an array to one width."""
    return np.array2string(np.asarray(number), precision=4)


def gradient_text(tensor: Any) -> str:
    """The gradient's numbers, or its norm if there are more than four; "" without a gradient.

    >>> import minigrad as mg
    >>> x = mg.ones(5, requires_grad=True)
    >>> (3 * x).sum().backward()
    >>> gradient_text(x)
    'grad of norm 6.708'
    """
    grad = None if tensor.grad is None else tensor.grad.array
    if grad is None:
        return ""
    norm = np.linalg.norm(kernels.to_device(grad, "cpu").astype(np.float64).ravel())
    return f"grad {small_values(tensor.grad) or f'of norm {norm:.4g}'}"


def tensor_html(tensor: Any) -> str:
    """A table of the values, cut like repr() of a long tensor, under a line with shape, dtype, device and gradient."""
    facts = [f"{type(tensor).__name__} {tensor.shape}", str(tensor.dtype), tensor.device]
    if tensor.node is not None:
        facts.append(f"grad_fn={tensor.node}")
    elif tensor.requires_grad:
        facts.append("requires_grad")
    facts += [gradient_text(tensor)] if tensor.grad is not None else []
    array = kernels.to_device(tensor.array, "cpu")
    if array.ndim > 2 or array.size == 0:
        values = f"<pre>{escape(np.array2string(array, separator=', ', precision=4, threshold=200, edgeitems=2))}</pre>"
    else:
        values = f"<table>{''.join(map(row_html, cut(list(np.atleast_2d(array)))))}</table>"
    return f"<div><div><small>{text(' · '.join(facts))}</small></div>{values}</div>"


def row_html(row: Any) -> str:
    cells = ["…"] if row is None else ["…" if value is None else number_text(value) for value in cut(list(row))]
    return "<tr>" + "".join(f'<td style="text-align: right">{text(cell)}</td>' for cell in cells) + "</tr>"


def cut(entries: list[Any]) -> list[Any]:
    """The entries, with None in place of the middle of a long list."""
    return entries if len(entries) <= LONGEST else [*entries[:ENDS], None, *entries[-ENDS:]]


def module_html(module: Any, name: str = "") -> str:
    """The tree of a module: each part's class and number of parameters, with its own parameters and parts folded below."""
    count = sum(parameter.numel() for parameter in module.parameters())
    title = f"{type(module).__name__}({module.extra_repr()})"
    size = f" <small>{count:,} parameter{'s' * (count != 1)}</small>" if count else ""
    summary = f"{f'{text(name)}: ' if name else ''}<code>{text(title)}</code>{size}"
    own = [f"<li>{text(key)} <small>{text(p.shape)}</small></li>" for key, p in module.named_parameters(recurse=False)]
    parts = [f"<li>{module_html(part, key)}</li>" for key, part in module.named_children()]
    if not own and not parts:
        return summary
    start = "<details>" if name else '<details open="">'
    return f"{start}<summary>{summary}</summary><ul>{''.join(own + parts)}</ul></details>"


def text(value: Any) -> str:
    """The value as text in HTML: no markup, no control characters."""
    return escape(visible(str(value)))

"""Einstein summation: any product of tensors, written with a letter for each axis.

`einsum("bhtd,bhsd->bhts", q, k)` multiplies along shared letters, and sums over the letters missing on the right.
Every step here is an operation that has a gradient already: permute, expand, matrix product, sum.
"""

import math
import string
from typing import Any, Iterable, Sequence

import kernels
from minigrad.engine import TensorBase, TensorT, wrap
from minigrad.ops.indexing import getitem
from minigrad.ops.operands import need_tensors
from minigrad.ops.products import matmul
from minigrad.ops.reductions import sum as sum_over
from minigrad.ops.shape import expand, permute, reshape


def einsum(equation: str, *operands: Any) -> Any:
    """The sum of products that `equation` describes, such as "ik,kj->ij" for a matrix product.

    A letter that occurs twice in one operand takes the diagonal; "..." stands for any number of axes, which broadcast. Without
    "->", the result has the letters that occur once, in alphabetical order. PyTorch's form with lists is not implemented.

    >>> import minigrad as mg
    >>> einsum("ij->j", mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([4., 6.])
    """
    if not isinstance(equation, str):
        raise NotImplementedError("einsum: expected an equation such as 'ij,jk->ik' first; lists of axes are not implemented")
    tensors: Sequence[TensorBase] = operands[0] if len(operands) == 1 and isinstance(operands[0], (list, tuple)) else operands
    need_tensors("einsum", *tensors)
    terms, output = _parse(equation, [t.ndim for t in tensors])
    factors = [_diagonal(t, term) for t, term in zip(tensors, terms)]
    sizes = _sizes(factors)
    if not set(output) <= set(sizes):
        raise RuntimeError(f"einsum: {equation!r} has a letter in its result that no operand has")
    total, letters = factors[0]
    for i, (factor, theirs) in enumerate(factors[1:], 2):
        later = {letter for _, term in factors[i:] for letter in term} | set(output)
        total, letters = _contract(total, letters, factor, theirs, later, sizes)
    gone = [i for i, letter in enumerate(letters) if letter not in output]
    if gone:
        total, letters = sum_over(total, gone), "".join(letter for letter in letters if letter in output)
    return permute(total, [letters.index(letter) for letter in output if letter in letters])


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """A string of one letter per axis for each operand, and one for the result. Unused letters take the place of "..."."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise RuntimeError(f"einsum: {equation!r} names {len(terms)} operands, got {len(ranks)}")
    letters = [c for c in (left + right).replace("...", "") if c != ","]
    if any(c not in string.ascii_letters for c in letters) or right.count("...") > 1:
        raise RuntimeError(f"einsum: expected letters, commas, '...' and one '->', got {equation!r}")
    spare = [c for c in string.ascii_letters if c not in letters]
    dots = [rank - len(term.replace("...", "")) for term, rank in zip(terms, ranks)]
    for term, rank, extra in zip(terms, ranks, dots):
        if extra < 0 or extra > 0 and "..." not in term or term.count("...") > 1 or extra > len(spare):
            raise RuntimeError(f"einsum: the operand {term!r} of {equation!r} does not fit a tensor of {rank} dimensions")
    most = max((extra for term, extra in zip(terms, dots) if "..." in term), default=0)
    shared = "".join(spare[:most])  # axes under "..." are aligned at the end, as in broadcasting
    full = [term.replace("...", shared[most - extra :]) for term, extra in zip(terms, dots)]
    once = (c for c in sorted(set(letters)) if left.count(c) == 1)
    return full, right.replace("...", shared) if arrow else shared + "".join(once)


def _diagonal(x: TensorT, letters: str) -> tuple[TensorT, str]:
    """x with one axis for each different letter."""
    for letter in dict.fromkeys(letters):
        while letters.count(letter) > 1:
            i = letters.index(letter)
            j = letters.index(letter, i + 1)
            if x.shape[i] != x.shape[j]:
                raise RuntimeError(f"einsum: the axes {letter!r} of one operand have lengths {x.shape[i]} and {x.shape[j]}")
            rest = [k for k in range(x.ndim) if k not in (i, j)]
            index = kernels.array_module(x.array).arange(x.shape[i])
            x = getitem(permute(x, i, j, *rest), (wrap(index), wrap(index)))
            letters = letter + "".join(letters[k] for k in rest)
    return x, letters


def _sizes(factors: Iterable[tuple[TensorBase, str]]) -> dict[str, int]:
    """The length of each letter's axis. As in broadcasting, an axis of length 1 fits any."""
    sizes: dict[str, int] = {}
    for x, letters in factors:
        for letter, n in zip(letters, x.shape):
            if 1 not in (n, sizes.get(letter, n)) and sizes.get(letter, n) != n:
                raise RuntimeError(f"einsum: the axis {letter!r} has length {sizes[letter]} in one operand and {n} in another")
            sizes[letter] = n if sizes.get(letter, 1) == 1 else sizes[letter]
    return sizes


def _contract(
    a: TensorT, a_letters: str, b: TensorT, b_letters: str, later: set[str], sizes: dict[str, int]
) -> tuple[TensorT, str]:
    """The product of two factors, summed over the letters that nothing needs later: one batched matrix product."""
    batch = [c for c in a_letters if c in b_letters and c in later]
    inner = [c for c in a_letters if c in b_letters and c not in later]
    a_own = [c for c in a_letters if c not in b_letters]
    b_own = [c for c in b_letters if c not in a_letters]
    left = _matrices(a, a_letters, batch, a_own, inner, sizes)
    right = _matrices(b, b_letters, batch, inner, b_own, sizes)
    shape = [sizes[c] for c in (*batch, *a_own, *b_own)]
    return reshape(matmul(left, right), shape), "".join((*batch, *a_own, *b_own))


def _matrices(
    x: TensorT, letters: str, batch: list[str], rows: list[str], columns: list[str], sizes: dict[str, int]
) -> TensorT:
    """x as a batch of matrices, (batch, rows, columns), each of which may stand for several letters."""
    order = [*batch, *rows, *columns]
    x = permute(x, [letters.index(c) for c in order])
    x = expand(x, [sizes[c] for c in order])
    return reshape(x, [math.prod(sizes[c] for c in group) for group in (batch, rows, columns)])

"""Numbers, dtypes, sizes and operands at the edges of their domains: minigrad agrees with PyTorch, or both refuse.

Each expression runs with t = torch and t = minigrad (skipped without torch).
"""

import copy

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn.functional as mF
from tests.minigrad.pytorch import assert_same, parts_of

torch = pytest.importorskip("torch")


def assign(x, index, value):
    x[index] = value
    return x


CREATED = """
[f(2, dtype=None) for f in (t.zeros, t.ones, t.eye)] + [t.empty(2, dtype=None).dtype]
[f(2, dtype=None).shape for f in (t.randn, t.rand)] + [f(2, dtype=None).dtype for f in (t.randn, t.rand)]
[t.linspace(0, 1, 3, dtype=None), t.arange(3, dtype=None), t.arange(3.0, dtype=None), t.full((2,), 3, dtype=None)]
[t.randint(3, (2,), dtype=None).dtype, t.randperm(3, dtype=None).dtype]
[f(t.ones(2, dtype=f16), dtype=None).dtype for f in (t.zeros_like, t.ones_like, t.randn_like)]
[t.zeros(size=(2, 3)), t.ones(size=(2,)), t.empty(size=(2,)).shape, t.rand(size=(2,)).shape, t.randn(size=(2,)).shape]
t.zeros(2, size=(3,))
t.zeros()
t.zeros(2, -1)
t.zeros((2, 1.5))
t.zeros("a")
t.ones_like(t.ones(2), device="cpu", requires_grad=True)
t.full_like(t.ones(2), 3, device="cpu")
[t.arange(end=3), t.arange(1, end=3), t.eye(2, 3), t.eye(3, 2, dtype=i64)]
t.eye(2, -3)
t.eye(2.5)
[t.randint(high=5, size=(2,)).shape, t.randint(5, size=(2,)).shape, t.randint(low=1, high=5, size=(2,)).shape]
t.randint(5, (-1,))
t.randperm(-1)
t.randperm(1.5)
t.randperm(300, dtype=u8)
t.Generator(device="cpu").manual_seed(3) is None
t.tensor([2**40], dtype=i32)
t.tensor([300], dtype=u8)
t.tensor(np.int64(300), dtype=u8)
t.tensor([300.0], dtype=u8)
[t.tensor([-1], dtype=u8), t.tensor([3.7], dtype=i64), t.tensor([1e10], dtype=f16), t.tensor([nan, 2], dtype=t.bool)]
t.tensor([nan], dtype=i64)
t.tensor([inf], dtype=i64)
t.tensor([2**63])
[t.tensor(np.array([300]), dtype=u8), t.tensor(np.array([2**40]), dtype=i32), t.tensor(t.tensor([300]), dtype=u8)]
[t.tensor([np.float64(3)]), t.tensor([1, np.float64(3)]), t.tensor([np.ones(2), np.ones(2)])]
[t.tensor([np.float32(3)]), t.tensor([np.int32(3)]), t.tensor([1.0]), t.tensor([]), t.tensor([t.tensor(1.0), 2.0])]
t.tensor([t.tensor([1.0, 2.0]), t.tensor([1.0, 2.0])])
t.tensor(["a"])
t.tensor([None])
t.tensor(None)
t.tensor(np.array(["a"]))
t.tensor(np.array([None]))
t.from_numpy(np.array(["a"]))
t.as_tensor(np.array([None]))
t.from_numpy([1, 2])
[t.full((1,), 3.7, dtype=i64), t.full((1,), -1, dtype=u8), t.full((1,), 1e10, dtype=f16), t.full((1,), t.tensor(3))]
[t.full((1,), np.float64(3)), t.full((1,), np.int32(3)), t.full((1,), True), t.full((1,), nan, dtype=t.bool)]
t.full((1,), inf, dtype=i64)
t.full((1,), 300, dtype=u8)
t.full((1,), -300, dtype=u8)
t.full((1,), 2**64)
t.full((1,), 1e50)
t.full((1,), None)
t.full((1,), "3")
t.full_like(t.ones(1, dtype=u8), 300)
"""

WRITTEN = """
[t.ones(1, dtype=i64).fill_(3.7), t.ones(1, dtype=u8).fill_(-1), t.ones(1, dtype=u8).fill_(t.tensor(300))]
t.ones(1, dtype=f16).fill_(1e5)
t.ones(1, dtype=i64).fill_(nan)
t.ones(1, dtype=u8).fill_(300)
t.ones(1).fill_(None)
t.ones(1).fill_("3")
t.ones(1).fill_(1j)
t.ones(1).copy_(None)
[t.ones(1).copy_(2.0), t.ones(1, dtype=u8).copy_(t.tensor([300]))]
[t.ones(1, dtype=d).masked_fill(mask, value) for d, value in ((i64, 3.7), (u8, -1), (t.bool, 3.7), (i64, t.tensor(3.7)))]
t.ones(1).masked_fill(mask, None)
t.ones(1).masked_fill(mask, "3")
t.ones(1, dtype=i64).masked_fill(mask, -inf)
t.ones(1, dtype=u8).masked_fill(mask, t.tensor(300))
t.ones(1, dtype=f16).masked_fill(mask, 1e5)
t.ones(1).masked_fill(mask, 1e50)
[t.ones(2, dtype=d).scatter(0, t.tensor([0]), value) for d, value in ((i64, 3.7), (u8, -1), (t.float32, np.float64(3)))]
t.ones(2, dtype=i64).scatter(0, t.tensor([0]), nan)
t.ones(2, dtype=u8).scatter(0, t.tensor([0]), 300)
t.ones(2).scatter(0, t.tensor([0]), None)
assign(t.ones(2), 0, None)
assign(t.ones(2), 0, "3")
assign(t.ones(2), 0, 1j)
assign(t.ones(3, 5), 0, [1.0, 2.0, 3.0, 4.0, 5.0])
assign(t.ones(2), t.tensor([0]), [1.0])
[assign(t.ones(2, dtype=d), 0, value) for d, value in ((i64, 3.7), (u8, -1), (i64, t.tensor(1.5)), (f16, 1e5))]
assign(t.ones(2, dtype=i64), t.tensor([0]), 3.7)
assign(t.ones(2, dtype=i64), 0, nan)
assign(t.ones(2, dtype=u8), t.tensor([True, False]), 300)
assign(t.ones(2, dtype=i64), t.tensor([0]), t.tensor([1.5]))
assign(t.ones(2), t.tensor([0]), t.tensor(1))
assign(t.ones(2, 2), (slice(None), t.tensor([0])), t.tensor([1]))
assign(t.ones(2), t.tensor([True, True]), t.tensor([1, 2]))
[assign(t.ones(2), t.tensor([True, False]), t.tensor(2)), assign(t.ones(2), slice(None), t.tensor([1, 2]))]
[F.pad(t.ones(2, dtype=i64), (1, 1), value=1.5), F.pad(t.tensor(1.0), ()), F.pad(t.ones(2), ())]
F.pad(t.ones(2, dtype=i64), (1, 1), value=nan)
F.pad(t.ones(2), 1)
F.pad(t.ones(2), (1.0, 1))
t.zeros(2, dtype=u8).index_add(0, t.tensor([0]), t.ones(1, dtype=u8), alpha=300)
t.ones(2).clamp(max=1e50)
t.ones(2, dtype=u8).clamp(-1, 300)
"""

COMPUTED = """
[half([30000.0]) * 1e-8, 1e-8 * half([30000.0]), half([0, 1e-3]) * 1e5, half([0, 1e-3]) / 1e-8]
[half([30000.0]) * t.tensor(1e-8), half([1e-3]) / t.tensor(1e-8)]
[half([-60000.0]) + 1e5, 1e5 - half([60000.0]), 1e5 / half([4.0]), half([3.0]) // 0.1, half([3.0]) % 0.1, half([2.0]) ** 0.1]
[t.tensor(1e-8) * half([30000.0]), half([2048.0]) + 1.0004, half(30000.0) * 1e-8, half([3.0]).mul_(0.1)]
[half([65504.0]) < 1e5, half([inf]) == 1e5, half([0.1]) == 0.1, t.tensor([0.1]) == 0.1]
half([1.001]) ** 1e5
half([1.0]).clamp(max=1e5)
[t.tensor(-1) / t.tensor([2], dtype=u8), t.tensor(2**40) / t.tensor([2], dtype=i32), t.tensor([2], dtype=i32) / 2**40]
[2**40 / t.tensor([2], dtype=i32), t.tensor(300) * t.tensor([2], dtype=u8), 7 / t.tensor([3.0, 0.0])]
[t.tensor([1, 44, 255], dtype=u8) == 300, t.tensor([1, 255], dtype=u8) > -1, t.tensor([1], dtype=i32) < 2**40]
t.tensor([1]) < 2**64
t.ones(2) * 10**40
[t.tensor([2, 1, -1, 0]) ** t.tensor([-1, -2, -3, -1]), 2 ** t.tensor([-1, 3]), t.tensor([2, -1]) ** t.tensor(-1)]
t.tensor(2) ** -1
[t.ones(2).add(1, alpha=2), t.sub(t.ones(2), t.ones(2), alpha=3), t.add(t.ones(2, dtype=i64), 1.5, alpha=2.5)]
t.add(t.ones(2, dtype=i64), 1, alpha=2.5)
t.add(t.ones(2), 1, alpha=None)
t.ones(3) - t.tensor([True] * 3)
t.tensor([True]) - 1
t.ones(3) - True
True - t.ones(3)
t.ones(3).sub_(t.tensor(True))
F.l1_loss(t.ones(2), t.tensor([True, False]))
t.tensor([nan, 1e30]).long().shape
F.rms_norm(half([1e-3, 1e-3]), (2,))
"""

SHAPED = """
[t.tensor([True, False]).all(dim=()), t.tensor([3, 0]).any(dim=[]), t.tensor([True, False]).any(dim=(), keepdim=True)]
[x.shape for x in (*t.zeros(0, 3).chunk(3), *t.zeros(2, 3).chunk(3), *t.zeros(0, 3).split(0))]
list(t.tensor(1.0).topk(0))
[*t.tensor(1.0).max(0), *t.tensor([True, False]).max(0), *t.tensor([True, False]).min(0), t.tensor([True]).max()]
t.tensor(1.0).max(5)
t.tensor(1.0).max((0, 1))
t.tensor(1.0).argmax((0, 1))
t.tensor([1.0]).argmin((0,))
t.ones(3, 4).reshape(-2, 6)
t.ones(3, 4).view(-2, 6)
[t.cat([t.ones(2, 3), t.zeros(0)]), t.cat([t.zeros(0, dtype=t.float64), t.ones(2, 3)], 1), t.cat([t.zeros(0), t.zeros(0)])]
t.cat([t.zeros(0, 3), t.ones(2, 2, 3)], 1)
t.cat(3)
t.stack(t.ones(2))
t.sum(t.ones(2), 1.0)
t.ones(2).var(1.0)
t.ones(2).split(1.5)
t.ones(2).split([1.0, 1.0])
t.ones(2).chunk(1.5)
t.ones(2).roll(1.5)
t.ones(2, 2).flip(0.5)
t.ones(2).topk(None)
t.tril(t.ones(2, 2), 1.5)
t.multinomial(t.ones(2), 1.5)
t.ones(2)[0.:1.]
t.ones(2)[::0]
t.allclose(t.zeros(2), t.zeros(3))
[t.allclose(t.zeros(2), t.zeros(1)), t.equal(t.zeros(2), t.zeros(3))]
t.where(mask, None, 1)
[t.where(mask, 2, 1), t.where(mask, 2.5, 1), t.where(mask, 1, t.tensor([2.0]))]
copy.deepcopy(t.ones(2, requires_grad=True) * 2)
[copy.deepcopy(t.ones(2) * 2), copy.deepcopy(t.ones(2, requires_grad=True))]
"""

NAMED = "exp relu sqrt sort unique nonzero flatten mean argmax isnan logical_not square clone isfinite zeros_like full_like"
NO_TENSORS = [f"t.{name}([1.0]{', 1' * (name == 'full_like')})" for name in NAMED.split()]
NO_TENSORS += [
    "t.exp(3)",
    "t.softmax(np.ones(3), 0)",
    "F.one_hot([1, 2])",
    "t.reshape([1], (1,))",
    "t.tril(3)",
    "t.clamp(3, 1)",
]
NO_TENSORS += ["t.allclose(1, 2)", "t.cumsum([1], 0)", "t.multinomial([1.0], 1)", "t.gather([1], 0, t.tensor([0]))"]

SETTINGS = """
t.ones(2).size(0.5)
t.ones(2).normal_("a")
[leaf.register_hook(3), leaf.sum().backward()]
t.nn.Dropout("a")
t.nn.MultiheadAttention("a", 2)
t.nn.init.normal_(t.ones(2), "a")
t.nn.init.uniform_(t.ones(2), "a", 1.0)
t.nn.init.normal_(t.ones(2), t.tensor(1.0), t.tensor(0.0))
scheduler.ConstantLR(sgd, 0.5).get_last_lr()
t.nn.utils.clip_grad_norm_([leaf], "a")
t.utils.data.random_split([1, 2], 3)
t.utils.data.random_split([1, 2], ["a", 1])
F.dropout(t.ones(2), "a")
scheduler.StepLR(sgd, "a").step()
scheduler.StepLR(sgd, 2, gamma=0.5).get_last_lr()
scheduler.MultiStepLR(sgd, 3)
scheduler.MultiStepLR(sgd, [1.0, 2.5]).get_last_lr()
scheduler.LinearLR(sgd, "a")
scheduler.ConstantLR(sgd, "a")
scheduler.LambdaLR(sgd, 3)
[f.requires_grad for f in (t.eye(2, requires_grad=True), t.linspace(0, 1, 3, requires_grad=True))]
[t.arange(3.0, requires_grad=True).requires_grad, t.arange(3.0).requires_grad]
"""

EXPRESSIONS = [
    line for lines in (CREATED, WRITTEN, COMPUTED, SHAPED, SETTINGS) for line in lines.strip().splitlines()
] + NO_TENSORS


def outcome(expression, t, F):
    """The parts of the result, or None if it was refused."""
    names = {"t": t, "F": F, "np": np, "copy": copy, "assign": assign, "nan": float("nan"), "inf": float("inf")}
    names |= {"f16": t.float16, "i32": t.int32, "i64": t.int64, "u8": torch.uint8 if t is torch else np.dtype("uint8")}
    names |= {"half": lambda values: t.tensor(values, dtype=t.float16), "mask": t.tensor([True])}
    names["leaf"] = leaf = t.tensor([1.0, 2.0], requires_grad=True)
    names |= {"sgd": t.optim.SGD([leaf], lr=0.1), "scheduler": t.optim.lr_scheduler}
    try:
        result = eval(expression, names)
    except Exception as error:
        if t is mg:  # a sentence that names the operation, not an error from inside
            assert type(error) in (TypeError, RuntimeError, ValueError, IndexError) and ": " in str(error), repr(error)
        return None
    return parts_of(result)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_agrees_with_pytorch(expression):
    ours, theirs = outcome(expression, mg, mF), outcome(expression, torch, torch.nn.functional)
    assert_same(ours, theirs)


def test_names_that_are_missing_say_so():
    with pytest.raises(AttributeError, match="minigrad.autograd has no 'functional'"):
        mg.autograd.functional  # noqa: B018
    with pytest.raises(AttributeError):
        mg.backends.cudnn.determinstic = True

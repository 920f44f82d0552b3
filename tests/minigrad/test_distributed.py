"""Data parallelism between threads: any number of ranks must compute the same bytes."""

import sys
import types

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn.functional as F
from kernels.adamw.reference import SPAN
from kernels.collectives import Alone
from kernels.collectives.reference import run
from minigrad import distributed, processor
from minigrad.distributed import RankError, Sharing, gradients
from minigrad.distributed.gradients import GradientExchange
from minigrad.distributed.sharded import ShardedOptimizer, ends_of_parts
from minigrad.optim import AdamW, MuonWithAuxAdam, clip_grad_norm_

TERMS, STEPS = 4, 3
SHAPES = [(300, 257), (257,), (257, 300), (7,), (300, 5)]  # the first is longer than a span, and nothing uses the fourth


@pytest.fixture(autouse=True)
def one_thread_and_small_buckets(monkeypatch):
    threads = processor.get_num_threads()
    processor.set_num_threads(1)
    monkeypatch.setattr(gradients, "BUCKET", 5000)
    yield
    processor.set_num_threads(threads)


def parameters():
    rng = np.random.default_rng(0)
    return [mg.tensor(0.1 * rng.standard_normal(shape).astype(np.float32), requires_grad=True) for shape in SHAPES]


def loss_of(weights, step, term):
    a, b, c, _, d = weights
    x = mg.tensor(np.random.default_rng([step, term]).standard_normal((6, 300)).astype(np.float32))
    return (F.gelu(x @ a + b) @ c @ d).square().mean() / TERMS


def optimizer_for(weights, muon):
    a, b, c, unused, d = weights
    if muon:
        return MuonWithAuxAdam([{"params": [a, c], "use_muon": True, "lr": 0.01}, {"params": [b, unused, d], "lr": 0.01}])
    return AdamW([{"params": [a, c, d], "lr": 0.01}, {"params": [b, unused], "lr": 0.01, "weight_decay": 0.0}])


def train(group, sharded=False, muon=False, in_order=True, steps=STEPS, state=None):
    """Train on this rank; returns the parameters, the gradient norms and the optimizer's state."""
    weights, sharing = parameters(), Sharing(group, TERMS, in_order)
    optimizer = optimizer_for(weights, muon)
    if sharded:
        optimizer = ShardedOptimizer(optimizer, weights, sharing, TERMS)
        exchange = optimizer.exchange
    else:
        exchange = GradientExchange(weights, sharing, TERMS)
    if state is not None:
        for weight, array in zip(weights, state[0], strict=True):
            weight.array[...] = array
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state[2]})
    norms = []
    for step in steps if isinstance(steps, range) else range(steps):
        for i, term in enumerate(exchange.own_terms):
            with exchange.collect(i):
                loss_of(weights, step, term).backward()
        exchange.finish()
        assert weights[3].grad is None  # no term used it
        norms.append((optimizer.clip_grad_norm_(0.5) if sharded else clip_grad_norm_(weights, 0.5)).item())
        optimizer.step()
        optimizer.zero_grad()
    return [w.array.copy() for w in weights], norms, optimizer.state_dict()["state"]


def content(result):
    """Everything that `train` returns, as bytes."""
    arrays, norms, state = result
    moments = [np.asarray(getattr(v, "array", v)).tobytes() for i in sorted(state) for _, v in sorted(state[i].items())]
    return [a.tobytes() for a in arrays], norms, sorted(state), moments


@pytest.mark.parametrize("muon", [False, True])
def test_any_number_of_ranks_sharded_or_not_computes_the_same_bytes(muon):
    once = content(run(1, lambda group: train(group, muon=muon))[0])
    for size in (1, 2, 3, 4):  # with three ranks, the first has two terms
        for sharded in (False, True):
            results = run(size, lambda group: train(group, sharded, muon))  # noqa: B023
            assert content(results[0]) == once, (size, sharded)
            assert all(content((*result[:2], {}))[:2] == once[:2] for result in results), (size, sharded)


def test_the_sum_is_the_gradient_of_the_mean_loss():
    def gradient(group):
        weights = parameters()
        exchange = GradientExchange(weights, Sharing(group, TERMS), TERMS)
        for i, term in enumerate(exchange.own_terms):
            with exchange.collect(i):
                loss_of(weights, 0, term).backward()
        exchange.finish()
        return [None if w.grad is None else w.grad.numpy() for w in weights]

    whole = parameters()
    sum(loss_of(whole, 0, term) for term in range(TERMS)).backward()
    for ours, weight in zip(run(3, gradient)[1], whole, strict=True):
        if weight.grad is None:
            assert ours is None
        else:
            np.testing.assert_allclose(ours, weight.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_the_comparison_of_bytes_can_fail():
    """Two ranks that add their own terms first round otherwise than one rank, which adds from left to right."""

    def total(group, in_order):
        terms = [np.float32([1e8]), np.float32([3.0]), np.float32([3.0]), np.float32([3.0])]
        mine = [terms[t] for t in Sharing(group, TERMS).own(TERMS)]
        mine = mine if in_order else [sum(mine[1:], mine[0])]
        return group.reduce_scatter(mine, [0] * group.size + [1]).tolist()

    assert run(2, lambda group: total(group, True))[1] == run(1, lambda group: total(group, True))[0]
    assert run(2, lambda group: total(group, False))[1] != run(1, lambda group: total(group, True))[0]


def test_the_free_order_differs_by_rounding_only():
    ordered, free = (run(3, lambda group: train(group, True, in_order=flag))[2][0] for flag in (True, False))  # noqa: B023
    for a, b in zip(ordered, free, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_sharded_state_continues_on_another_number_of_ranks_or_whole():
    whole = content(run(1, lambda group: train(group, muon=True))[0])
    for first, second, sharded in ((3, 2, True), (2, 1, False), (1, 4, True)):
        begun = run(first, lambda group: train(group, True, True, steps=1))[0]
        ended = run(second, lambda group: train(group, sharded, True, steps=range(1, STEPS), state=begun))  # noqa: B023
        assert content((ended[0][0], begun[1] + ended[0][1], ended[0][2])) == whole, (first, second)
        assert all(content((*result[:2], {}))[0] == whole[0] for result in ended)


def test_each_rank_keeps_its_share_of_the_optimizers_state():
    def numbers(group):
        weights = parameters()
        optimizer = ShardedOptimizer(optimizer_for(weights, False), weights, Sharing(group, TERMS), TERMS)
        for i, term in enumerate(optimizer.exchange.own_terms):
            with optimizer.exchange.collect(i):
                loss_of(weights, 0, term).backward()
        optimizer.exchange.finish()
        optimizer.step()
        return sum(m.size for state in optimizer.optimizer.state.values() for m in state.values() if hasattr(m, "size"))

    shares, total = run(2, numbers), 2 * sum(np.prod(shape) for shape in SHAPES if shape != (7,))
    assert sum(shares) == total
    assert max(shares) < total / 2 + 2 * SPAN


def test_shares_end_at_spans():
    weights = [mg.zeros(3 * SPAN + 5), mg.zeros(10), mg.zeros(SPAN, 2)]
    assert ends_of_parts(weights, set(), 3) == [2 * SPAN, 2 * SPAN + 10 + SPAN, 5 * SPAN + 15]
    assert ends_of_parts(weights, {id(w) for w in weights}, 3) == [2 * SPAN, 2 * SPAN + 10, 5 * SPAN + 15]
    assert ends_of_parts(weights[1:2], set(), 3) == [0, 10, 10]


def test_gradients_leave_while_the_backward_pass_still_runs():
    started = []

    class Watched(Alone):
        def start_reduce_scatter(self, terms, *arguments):
            started.append(last_layer.grad is None and not done)
            return super().start_reduce_scatter(terms, *arguments)

    weights, done = parameters(), []
    last_layer = weights[4]
    exchange = GradientExchange([w for w in weights if w.shape != (7,)], Sharing(Watched(), 2), 2)
    handle = weights[0].register_post_accumulate_grad_hook(done.append)  # the first layer, which the pass reaches last
    for i in range(2):
        done.clear()
        with exchange.collect(i):
            loss_of(weights, 0, i).backward()
    exchange.finish()
    handle.remove()
    assert len(started) == len(exchange.buckets) == 2
    assert started[0], "the first bucket waited for the whole pass"


def test_shards_draw_their_own_numbers_whoever_computes_them():
    def sample(group):
        with_shards = Sharing(group, 4)
        return with_shards.map_shards(lambda items, rng: (items, rng.numpy.random(2).tolist()), range(10), mg.Generator(5))

    once = run(1, sample)[0]
    assert [list(items) for items, _ in once] == [[0, 1, 2], [3, 4, 5], [6, 7], [8, 9]]
    assert all(result == once for size in (2, 3, 4) for result in run(size, sample))
    assert len({tuple(numbers) for _, numbers in once}) == 4


def test_one_shard_uses_the_generator_itself_and_no_items_make_one_shard():
    generator = mg.Generator(5)
    assert Sharing().map_shards(lambda items, rng: (items, rng), [1, 2], generator) == [([1, 2], generator)]
    assert Sharing(Alone(), 3).map_shards(lambda items: items, []) == [[]]


def test_fewer_shards_than_ranks_are_refused():
    def share(group):
        with distributed.sharing(group, 1):
            pass

    with pytest.raises(RankError, match="shards: expected at least one for each of 2 processes, got 1; give 2 or more"):
        run(2, share)
    assert distributed.current() == Sharing(distributed.current().group, 1)


def test_without_mpiexec_a_process_is_alone(monkeypatch):
    for name in distributed.LAUNCHERS:
        monkeypatch.delenv(name, raising=False)
    assert not distributed.launched() and distributed.launched_rank() == 0
    assert distributed.join().size == 1


def test_mpiexec_without_mpi4py_is_one_sentence(monkeypatch):
    monkeypatch.setenv("PMI_RANK", "1")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert distributed.launched_rank() == 1
    with pytest.raises(RankError, match="expected the package mpi4py, and it is missing; install both with pip install"):
        distributed.join()


def test_mpi4py_without_a_library_is_one_sentence(monkeypatch):
    class WithoutLibrary(types.ModuleType):
        def __getattr__(self, name):  # what mpi4py's wheels do
            raise RuntimeError("cannot load MPI library\nlibmpi.so.12: cannot open shared object file")

    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", WithoutLibrary("mpi4py"))
    with pytest.raises(
        RankError, match=r"mpi4py found no MPI library \(cannot load MPI library\); install both with pip install"
    ):
        distributed.join()


def test_a_single_task_of_a_scheduler_is_alone(monkeypatch):
    for name in {*distributed.LAUNCHERS, *distributed.LAUNCHERS.values()}:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PMIX_RANK", "0")
    assert not distributed.launched()
    monkeypatch.setenv("SLURM_NTASKS", "2")
    assert distributed.launched()


def test_a_gradient_in_two_parts_is_whole_or_refused():
    def gradient(*others):
        w = mg.tensor([[2.0]], requires_grad=True)
        exchange = GradientExchange([*others, w], Sharing(Alone(), 1), 1)
        with exchange.collect(0):
            (w * 3).sum().backward()
            (w * 5).sum().backward()
        exchange.finish()
        return w.grad.item()

    assert gradient(mg.zeros(1, requires_grad=True)) == 8  # the bucket waits for another parameter
    with pytest.raises(RuntimeError, match="expected one complete gradient for each parameter, got another of shape"):
        gradient()  # the bucket has left


def test_a_closed_exchange_leaves_the_parameters_alone():
    weights = parameters()
    exchange = GradientExchange(weights, Sharing(), 1)
    exchange.close()
    loss_of(weights, 0, 0).backward()
    assert weights[0].grad is not None and not any(w.hooks.after for w in weights)


# ── the hook behind it ──


def test_a_hook_sees_the_complete_gradient_of_a_leaf_before_backward_ends():
    a, b = (mg.tensor([[2.0, 1.0], [0.0, 3.0]], requires_grad=True) for _ in range(2))
    seen = []
    a.register_post_accumulate_grad_hook(lambda p: seen.append(("a", p.grad.tolist())))
    handle = b.register_post_accumulate_grad_hook(lambda p: seen.append(("b", p.grad.tolist())))
    ((a @ a) @ b).sum().backward()  # a is used twice
    assert [name for name, _ in seen] == ["b", "a"]
    assert dict(seen) == {"a": a.grad.tolist(), "b": b.grad.tolist()}
    handle.remove()
    (a * b).sum().backward()
    assert [name for name, _ in seen] == ["b", "a", "a"]


def test_a_hook_that_changes_the_gradient_runs_first():
    a, seen = mg.tensor([1.0, 2.0], requires_grad=True), []
    a.register_hook(lambda grad: grad * 10)
    a.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.tolist()))
    (a * a).sum().backward()
    assert seen == [[20.0, 40.0]]


def test_only_leaves_take_such_a_hook():
    a = mg.tensor([1.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="expected a leaf that requires grad"):
        (a * 2).register_post_accumulate_grad_hook(print)
    with pytest.raises(TypeError, match="expected a function, got str"):
        a.register_post_accumulate_grad_hook("print")

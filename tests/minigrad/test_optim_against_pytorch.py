"""Optimizers and learning-rate schedulers against PyTorch, over their options (skipped without it)."""

import copy
import random
from typing import Any

import numpy as np
import pytest

import minigrad as mg

torch = pytest.importorskip("torch")
unchecked: Any = mg  # for calls that a type checker refuses
schedulers: Any = mg.optim.lr_scheduler

OPTIMIZERS = {  # name -> a function of the library's optim module and the parameters
    "SGD": lambda o, p: o.SGD(p, lr=0.1),
    "SGD without lr": lambda o, p: o.SGD(p),
    "SGD, momentum": lambda o, p: o.SGD(p, 0.05, 0.9),
    "SGD, dampening": lambda o, p: o.SGD(p, lr=0.05, momentum=0.9, dampening=0.3),
    "SGD, Nesterov and decay": lambda o, p: o.SGD(p, lr=0.05, momentum=0.8, nesterov=True, weight_decay=0.1),
    "SGD, groups": lambda o, p: o.SGD([{"params": p[:1], "lr": 0.2, "momentum": 0.5}, {"params": p[1:]}], lr=0.01),
    "Adam": lambda o, p: o.Adam(p, lr=0.05),
    "Adam, decay": lambda o, p: o.Adam(p, lr=0.05, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.3),
    "AdamW": lambda o, p: o.AdamW(p, 0.05),
    "AdamW, decay and foreach": lambda o, p: o.AdamW(p, lr=0.05, weight_decay=0.3, foreach=True),
    "Adam, one tensor as a group": lambda o, p: o.Adam([{"params": p[0]}, {"params": p[1:], "weight_decay": 0.1}], lr=0.05),
}
STARTS = [np.linspace(-1, 2, 6).reshape(2, 3), np.array([0.5, -3.0])]


def parameters(t, dtype="float64"):
    return [t.tensor(start.astype(dtype), requires_grad=True) for start in STARTS]


def take_steps(optimizer, params, steps, scheduler=None):
    for step in range(steps):
        optimizer.zero_grad()
        loss = sum(((p - 1) ** 2).mean() + (p * (step % 3 - 1)).sum() for p in (params[:1] if step == 1 else params))
        loss.backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ten_steps_and_the_state_are_pytorchs(name):
    """Ten steps, the state into a new optimizer, five more; in step 1 the second parameter has no gradient."""
    ours, theirs = parameters(mg), parameters(torch)
    states = []
    for t, params in ((mg, ours), (torch, theirs)):
        first = OPTIMIZERS[name](t.optim, params)
        take_steps(first, params, 10)
        second = OPTIMIZERS[name](t.optim, params)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        take_steps(second, params, 5)
        states.append(second.state_dict())
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-12, atol=1e-14)
    mine, pytorchs = states
    for group, other in zip(mine["param_groups"], pytorchs["param_groups"]):
        assert group.items() <= other.items()
    for number, values in mine["state"].items():
        assert set(values) == set(pytorchs["state"][number])
        for key, value in values.items():
            np.testing.assert_allclose(np.asarray(value), np.asarray(pytorchs["state"][number][key]), rtol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_float32_through_the_kernels(name):
    ours, theirs = parameters(mg, "float32"), parameters(torch, "float32")
    for t, params in ((mg, ours), (torch, theirs)):
        take_steps(OPTIMIZERS[name](t.optim, params), params, 10)
    for a, b in zip(ours, theirs):
        assert a.dtype == mg.float32
        np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=2e-5, atol=1e-5)


SCHEDULERS = {
    "LambdaLR": lambda s, o: s.LambdaLR(o, lambda step: 1 / (1 + step)),
    "LambdaLR for each group": lambda s, o: s.LambdaLR(o, [lambda step: 0.9**step, lambda step: 1.0 - step / 50]),
    "StepLR": lambda s, o: s.StepLR(o, 3),
    "MultiStepLR": lambda s, o: s.MultiStepLR(o, [2, 7, 7], gamma=0.5),
    "ExponentialLR": lambda s, o: s.ExponentialLR(o, 0.9),
    "LinearLR": lambda s, o: s.LinearLR(o),
    "LinearLR, down": lambda s, o: s.LinearLR(o, 1.0, 0.1, total_iters=7),
    "ConstantLR": lambda s, o: s.ConstantLR(o, 0.25, 4),
    "CosineAnnealingLR": lambda s, o: s.CosineAnnealingLR(o, 6, 0.001),
    "SequentialLR": lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=4), s.CosineAnnealingLR(o, 9)], [4]),
    "three in sequence": lambda s, o: s.SequentialLR(o, [s.ConstantLR(o), s.StepLR(o, 2), s.ExponentialLR(o, 0.5)], [3, 8]),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name):
    rates = []
    for t in (mg, torch):
        params = parameters(t)
        optimizer = t.optim.SGD([{"params": params[:1], "lr": 0.3}, {"params": params[1:]}], lr=0.02)
        scheduler = SCHEDULERS[name](t.optim.lr_scheduler, optimizer)
        path = [[group["lr"] for group in optimizer.param_groups]]
        for step in range(20):
            take_steps(optimizer, params, 1, scheduler)
            path.append(scheduler.get_last_lr())
            if step == 9:  # carry on with a new scheduler
                state, optimizer_state = scheduler.state_dict(), optimizer.state_dict()
                optimizer = t.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=0.02)
                optimizer.param_groups[0]["initial_lr"] = 0.3
                scheduler = SCHEDULERS[name](t.optim.lr_scheduler, optimizer)
                optimizer.load_state_dict(optimizer_state)
                scheduler.load_state_dict(state)
        rates.append(path)
    np.testing.assert_allclose(*rates, rtol=1e-12, atol=1e-15)


def random_scheduler(s, o, draw, first=True, last_epoch=-1):
    """A scheduler with random settings, with `first` perhaps a sequence whose first scheduler is one again."""
    kinds = {
        "StepLR": lambda: s.StepLR(o, draw.randint(1, 4), draw.choice([0.5, 0.0]), last_epoch),
        "MultiStepLR": lambda: s.MultiStepLR(o, [draw.randint(0, 6) for _ in range(3)], 0.5, last_epoch),
        "ExponentialLR": lambda: s.ExponentialLR(o, 0.9, last_epoch),
        "LinearLR": lambda: s.LinearLR(o, draw.choice([0.1, 1.0]), draw.choice([0.0, 0.5]), draw.randint(1, 6), last_epoch),
        "ConstantLR": lambda: s.ConstantLR(o, 0.25, draw.randint(1, 6), last_epoch),
        "CosineAnnealingLR": lambda: s.CosineAnnealingLR(o, draw.randint(1, 6), draw.choice([0.0, 0.01]), last_epoch),
        "LambdaLR": lambda: s.LambdaLR(o, lambda step: 1 / (2 + step), last_epoch),
    }
    if not first or draw.random() < 0.6:
        return kinds[draw.choice(list(kinds))]()
    schedulers = [random_scheduler(s, o, draw, i == 0) for i in range(draw.randint(1, 3))]
    return s.SequentialLR(o, schedulers, sorted(draw.randint(0, 8) for _ in schedulers[1:]))


def rates_of_a_random_program(t, seed):
    """One or two schedulers, other learning rates by hand, and new schedulers that continue from the optimizer's state."""
    draw, params, path = random.Random(seed), parameters(t), []

    def new_optimizer():
        return t.optim.SGD([{"params": params[:1], "lr": 0.3}, {"params": params[1:]}], lr=0.02)

    optimizer = new_optimizer()
    schedulers = [random_scheduler(t.optim.lr_scheduler, optimizer, draw) for _ in range(draw.choice([1, 1, 2]))]
    for step in range(14):
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
        path += [scheduler.get_last_lr() for scheduler in schedulers]
        if draw.random() < 0.1:
            optimizer.param_groups[0]["lr"] = draw.random()
            path += [scheduler.get_last_lr() for scheduler in schedulers]
        if draw.random() < 0.1:
            state, optimizer = optimizer.state_dict(), new_optimizer()
            optimizer.load_state_dict(state)
            schedulers = [random_scheduler(t.optim.lr_scheduler, optimizer, draw, False, last_epoch=step)]
        path.append([group["lr"] for group in optimizer.param_groups])
    return path


@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch counts the optimizer's steps
@pytest.mark.parametrize("seed", range(50))
def test_random_programs_of_schedulers(seed):
    np.testing.assert_allclose(*(rates_of_a_random_program(t, seed) for t in (mg, torch)), rtol=1e-9, atol=1e-14)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_scheduler_continues_from_the_optimizers_state():
    optimizer = mg.optim.SGD(one(), lr=0.1)
    scheduler = mg.optim.lr_scheduler.LinearLR(optimizer, 0.1, 1.0, 10)
    for _ in range(7):
        scheduler.step()
    resumed = mg.optim.SGD(one(), lr=0.1)
    resumed.load_state_dict(optimizer.state_dict())
    scheduler = mg.optim.lr_scheduler.LinearLR(resumed, 0.1, 1.0, 10, last_epoch=6)
    rates = [scheduler.get_last_lr()[0]]
    for _ in range(3):
        scheduler.step()
        rates += scheduler.get_last_lr()
    assert rates == pytest.approx([0.073, 0.082, 0.091, 0.1])


def test_a_milestone_at_zero_skips_the_first_scheduler():
    rates = []
    for t in (mg, torch):
        s, optimizer = t.optim.lr_scheduler, t.optim.SGD(parameters(t), lr=1.0)
        scheduler = s.SequentialLR(optimizer, [s.LinearLR(optimizer, 0.1, 1.0, 5), s.CosineAnnealingLR(optimizer, 10)], [0])
        for _ in range(4):
            rates += scheduler.get_last_lr()
            take_steps(optimizer, parameters(t), 1, scheduler)
    assert rates[:4] == pytest.approx(rates[4:]) and rates[0] == 1.0


def test_a_users_scheduler_takes_over_the_learning_rate():
    """Half's rates depend on those before, so PyTorch's SequentialLR does not return to the base learning rate."""
    rates = []
    for t in (mg, torch):

        class Half(t.optim.lr_scheduler.LRScheduler):
            def get_lr(self):
                return [group["lr"] / 2 for group in self.optimizer.param_groups]

        params = parameters(t)
        s, optimizer = t.optim.lr_scheduler, t.optim.SGD(params, lr=1.0)
        scheduler = s.SequentialLR(optimizer, [s.ExponentialLR(optimizer, 0.9), Half(optimizer)], [3])
        for _ in range(6):
            take_steps(optimizer, params, 1, scheduler)
            rates += scheduler.get_last_lr()
    assert rates[:6] == pytest.approx(rates[6:])


def test_no_steps_of_warm_up_keep_the_start_factor():
    optimizer = mg.optim.SGD(one(), lr=1.0)
    scheduler = mg.optim.lr_scheduler.LinearLR(optimizer, 0.5, 1.0, 0)
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5]


@pytest.mark.parametrize("name", ["AdamW", "SGD"])
def test_parameters_of_several_dtypes(name):
    results = []
    for t in (mg, torch):
        params = [t.ones(3, requires_grad=True), t.ones(2, dtype=t.float64, requires_grad=True)]
        optimizer = getattr(t.optim, name)(params, lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            ((params[0] * 3).sum() + (params[1] ** 2).sum()).backward()
            norm = t.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
        results.append([*(p.detach().numpy() for p in params), norm.numpy()])
    for ours, theirs in zip(*results):
        assert ours.dtype == theirs.dtype
        np.testing.assert_allclose(ours, theirs, rtol=2e-5)


def test_two_schedulers_multiply():
    rates = []
    for t in (mg, torch):
        params = parameters(t)
        optimizer = t.optim.SGD(params, lr=1.0)
        both = [t.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), t.optim.lr_scheduler.MultiStepLR(optimizer, [2, 4])]
        for _ in range(5):
            take_steps(optimizer, params, 1)
            for scheduler in both:
                scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] == pytest.approx(rates[1], rel=1e-12)


def losses_of_closures(t):
    w = parameters(t)[0]
    optimizer = t.optim.SGD([w], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (w * w).sum()
        loss.backward()
        return loss

    with t.no_grad():
        return [optimizer.step(closure).item() for _ in range(3)]


def test_a_closure_computes_the_loss():
    assert losses_of_closures(mg) == pytest.approx(losses_of_closures(torch), rel=1e-12)


def test_groups_can_be_added():
    ours, theirs = parameters(mg), parameters(torch)
    for t, params in ((mg, ours), (torch, theirs)):
        optimizer = t.optim.SGD(params[:1], lr=0.1)
        optimizer.add_param_group({"params": params[1], "lr": 0.01})
        take_steps(optimizer, params, 3)
    np.testing.assert_allclose(ours[1].detach().numpy(), theirs[1].detach().numpy(), rtol=1e-12)


def one():
    return [mg.ones(1, requires_grad=True)]


@pytest.mark.parametrize(
    "act, error, words",
    [
        (lambda: mg.optim.Adam(one(), amsgrad=True), NotImplementedError, "Adam: amsgrad=True is not implemented"),
        (lambda: mg.optim.SGD(one(), maximize=True), NotImplementedError, "SGD: maximize=True"),
        (lambda: mg.optim.SGD([{"params": one(), "maximize": True}]), NotImplementedError, "SGD: maximize=True"),
        (lambda: unchecked.optim.SGD(one(), lr=mg.tensor(0.1)), NotImplementedError, "a number as lr, got a tensor"),
        (lambda: mg.optim.SGD(one(), nesterov=True), ValueError, "nesterov=True needs a momentum"),
        (lambda: mg.optim.SGD(one(), momentum=-1), ValueError, "SGD: expected momentum of at least 0, got -1"),
        (lambda: unchecked.optim.SGD(one()[0]), TypeError, "expected an iterable of parameters, got one tensor"),
        (lambda: mg.optim.SGD([{"params": one(), "betas": 1}]), ValueError, "a group has betas; it may set lr, momentum"),
        (lambda: unchecked.optim.lr_scheduler.StepLR(3, 3), TypeError, "StepLR: expected an optimizer, got int"),
        (lambda: mg.optim.lr_scheduler.LinearLR(mg.optim.SGD(one()), 0.0), ValueError, "start_factor above 0"),
        (lambda: schedulers.StepLR(mg.optim.SGD(one()), 0), ValueError, "StepLR: expected step_size above 0, got 0"),
        (lambda: schedulers.CosineAnnealingLR(mg.optim.SGD(one()), 0), ValueError, "expected T_max above 0, got 0"),
        (lambda: schedulers.ConstantLR(mg.optim.SGD(one()), 0), ValueError, "expected a factor above 0 and at most 1, got 0"),
        (lambda: schedulers.SequentialLR(mg.optim.SGD(one()), [3], []), TypeError, "expected schedulers, got int"),
        (lambda: unchecked.optim.AdamW(None), TypeError, "AdamW: expected an iterable of parameters, got NoneType"),
        (lambda: mg.optim.AdamW([{"lr": 1}]), ValueError, "expected a group with 'params', got 'lr'"),
        (lambda: unchecked.optim.AdamW(one(), lr="a"), TypeError, "AdamW: expected lr of at least 0, got 'a'"),
        (lambda: mg.optim.Adam(one(), eps=-1), ValueError, "Adam: expected eps of at least 0, got -1"),
        (lambda: unchecked.optim.AdamW(one(), betas=(0.9, 0.9, 0.9)), ValueError, "expected betas as two numbers"),
        (lambda: unchecked.optim.AdamW(one(), betas=0.9), ValueError, "expected betas as two numbers"),
        (lambda: mg.optim.AdamW(one(), betas=(0.9, 1)), ValueError, "expected betas as two numbers"),
        (lambda: unchecked.optim.AdamW(one()).add_param_group(one()), TypeError, "expected a group as a dict, got list"),
        (lambda: mg.optim.AdamW(one()).load_state_dict({}), ValueError, r"a dict 'state' and a list 'param_groups', got \[\]"),
        (lambda: unchecked.optim.AdamW(one()).load_state_dict(None), ValueError, "'param_groups', got NoneType"),
        (
            lambda: mg.optim.AdamW(one()).load_state_dict(mg.optim.AdamW(one() + one()).state_dict()),
            ValueError,
            r"expected a state with groups of \[1\] parameters, got groups of \[2\]",
        ),
        (lambda: unchecked.optim.lr_scheduler.OneCycleLR, AttributeError, "no 'OneCycleLR'; it has ConstantLR"),
        (lambda: mg.optim.lr_scheduler.StepLR(mg.optim.SGD(one()), 3, last_epoch=4), KeyError, "'initial_lr' in its groups"),
        (
            lambda: mg.optim.AdamW(one()).load_state_dict(
                {"state": {0: {"step": 1, "exp_avg": mg.ones(1)}}, "param_groups": [{"params": [0]}]}
            ),
            ValueError,
            "the state of parameter 0 lacks exp_avg_sq",
        ),
    ],
)
def test_what_is_refused(act, error, words):
    with pytest.raises(error, match=words):
        act()

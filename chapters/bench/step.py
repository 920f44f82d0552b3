"""Whole training steps beside PyTorch's: time, cost against T and B, peak memory, and where the time goes, kernel by kernel."""

import time
from collections import defaultdict

import numpy as np

import kernels
from kernels.bench.measure import in_turns, limits
from kernels.bench.peers import contestants, limit_rate

SIZES = {"tiny": (16, 128, 512), "book": (8, 256, 512), "gpt2": (4, 256, 50257)}  # batch, T, vocabulary
SECONDS = {"tiny": 20, "book": 60, "gpt2": 60}


def our_step(config, inputs, targets, change=lambda model: None):
    """A function that does one training step (forward, backward, clip, AdamW) and returns its loss.

    change: what is done to the model before.
    """
    import minigrad as mg
    import minigrad.nn.functional as F
    from chapters.ch06_gpt import GPT

    model = GPT(config, generator=mg.Generator(0))
    change(model)
    optimizer = mg.optim.AdamW(model.parameters(), lr=3e-4)
    x, y = mg.from_numpy(inputs), mg.from_numpy(targets)

    def step():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).view(-1, config.vocab_size), y.view(-1))
        loss.backward()
        mg.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def prepared(preset, B, T):
    from chapters.ch06_gpt import GPTConfig

    V = SIZES[preset][2]
    config = GPTConfig.preset(preset, vocab_size=V)
    inputs, targets = np.random.default_rng(0).integers(0, V, (2, B, T))
    return config, inputs, targets


def parameter_shapes(preset):
    """Of all arrays that AdamW updates in a step of this size."""
    from chapters.ch06_gpt import GPT

    return [parameter.shape for parameter in GPT(prepared(preset, 1, 1)[0]).parameters()]


def _product_operations(config, B, T):
    """Operations in the matrix products of a step: three products a weight, two operations each, and causal attention."""
    C, L = config.d_model, config.n_layer
    weights = L * 12 * C * C + config.vocab_size * C
    return 6 * B * T * weights + 7 * L * B * T * (T + 1) * C


def _breakdown(step, steps=5):
    """Seconds of each kernel in one step, the mean of several, by wrapping the functions of the CPU set while they run."""
    served, spent = kernels.SETS["cpu"], defaultdict(float)
    plain = {name: getattr(served, name) for names in kernels.OPERATIONS.values() for name in names}

    def timed(name, function):
        def call(*args, **settings):
            begin = time.perf_counter()
            result = function(*args, **settings)
            spent[name] += time.perf_counter() - begin
            return result

        return call

    for name, function in plain.items():
        setattr(served, name, timed(name, function))
    try:
        begin = time.perf_counter()
        for _ in range(steps):
            step()
        total = time.perf_counter() - begin
    finally:
        for name, function in plain.items():
            setattr(served, name, function)
    spent["everything else"] = total - sum(spent.values())
    each = {name: seconds / steps for name, seconds in spent.items()}
    return sorted(each.items(), key=lambda item: -item[1]), total / steps


def _fastest_product(names):
    """GFLOP/s of (2048, 2048) @ (2048, 1536) by whoever is fastest: the rate that a step
    of nothing but large products would reach. The limit in registers leaves out that operands come from memory."""
    with contestants("numpy", *(name for name in names if name != "compiled")) as them:
        for one in them.values():
            one.prepare("matmul", 2048, 2048, 1536, False, False)
        seconds = dict(zip(them, in_turns([one.turn for one in them.values()]), strict=True))
    name = min(seconds, key=seconds.get)
    return name, 2 * 2048 * 2048 * 1536 / seconds[name] / 1e9


def _one_size(preset, product, names):
    B, T, V = SIZES[preset]
    with contestants(*names, "limit") as them:  # new processes for each size, so that the peak of memory is this size's
        for name, one in them.items():
            one.prepare(*(("training_step", preset, B, T) if name != "limit" else ("nothing_but", "multiplying")))
        found = dict(zip(them, in_turns([one.turn for one in them.values()], SECONDS[preset]), strict=True))
        peaks = {name: one.peak() for name, one in them.items()}
    limit = limit_rate("multiplying", found.pop("limit"))
    config, inputs, targets = prepared(preset, B, T)
    operations = _product_operations(config, B, T) / 1e9
    print(f"\n{preset}: B = {B}, T = {T}, V = {V}; its matrix products alone: "
          f"{1e3 * operations / limit:.1f} ms at the limit in registers in the same turns, {limit:.0f} GFLOP/s, "
          f"{1e3 * operations / product:.1f} ms at the fastest product's rate")  # fmt: skip
    for name, seconds in found.items():
        ratio, times = found["minigrad"] / seconds, (seconds * rate / operations for rate in (limit, product))
        shown = "minigrad takes {:5.2f} of it   {:5.2f} and {:5.2f} of products   {:6.0f} MiB"
        shown = shown.format(ratio, *times, peaks[name])
        print(f"  {name:<10}{1e3 * seconds:9.1f} ms   {shown}")
    ours = our_step(config, inputs, targets)
    for _ in range(2):
        ours()
    parts, total = _breakdown(ours)
    print(f"  of minigrad's, {1e3 * total:.1f} ms while each kernel is timed:")
    for name, seconds in parts:
        if seconds > 0.005 * total:
            print(f"    {name:<24}{1e3 * seconds:9.1f} ms {100 * seconds / total:5.1f}%", flush=True)


def _scaling(names):
    with contestants(*names) as them:
        print(f"\ntiny, ms a step against B and T ({', '.join(them)})")
        for B, T in ((1, 128), (4, 128), (16, 128), (64, 128), (16, 32), (16, 256)):
            for one in them.values():
                one.prepare("training_step", "tiny", B, T)
            found = in_turns([one.turn for one in them.values()], 2.0)
            print(f"  B = {B:3}  T = {T:4} " + "".join(f"{1e3 * seconds:9.1f}" for seconds in found), flush=True)


def run(arguments):
    print(limits())
    names = ("minigrad", "torch", "compiled") if arguments.compile else ("minigrad", "torch")
    fastest, product = _fastest_product(names)
    print(f"fastest product, (2048, 2048) @ (2048, 1536), by {fastest}: {product:.0f} GFLOP/s")
    for preset in arguments.preset or SIZES:
        _one_size(preset, product, names)
    if not arguments.preset or "tiny" in arguments.preset:
        _scaling(names)

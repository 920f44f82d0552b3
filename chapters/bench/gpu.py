"""Whole training steps: the same losses as on the CPU, and how long a step takes beside PyTorch's.

This is the one place on this floor that looks at the floors above (the engine and chapter 6), by name and when it runs: it is a
program that uses them, not a part that they could come to depend on.
"""

import time
from importlib import import_module

import numpy as np

from kernels.bench.gpu_kernels import milliseconds, torch_on_gpu

PRESETS = {  # layers, heads, width, context, vocabulary
    "book": (6, 6, 384, 256, 4096),
    "gpt2": (12, 12, 768, 1024, 50257),
    "tiny": (4, 4, 128, 128, 512),  # so small that the CPU's launches take longer than what they launch
    "small": (2, 2, 32, 24, 61),
}
ADAMW = dict(lr=3e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)


class Trainer:
    """A GPT of the preset's shape, its optimiser, and a step: loss, gradients (as a graph or not), clipping, update."""

    def __init__(self, preset, device, seed=0, graph=False):
        self.mg = mg = import_module("minigrad")
        self.F = import_module("minigrad.nn.functional")
        gpt = import_module("chapters.ch06_gpt")
        layers, heads, width, self.context, self.vocab = PRESETS[preset]
        config = gpt.GPTConfig(vocab_size=self.vocab, context=self.context, n_layer=layers, n_head=heads, d_model=width)
        self.model = gpt.GPT(config, mg.Generator(seed)).to(device)
        self.device = device
        self.optimiser = mg.optim.AdamW(self.model.parameters(), **ADAMW)
        self.gradients = mg.graphed(self.loss, self.model.parameters()) if graph else self._gradients

    def batch(self, batch_size, step):
        ids = np.random.default_rng(step).integers(0, self.vocab, (batch_size, self.context + 1))
        ids = np.sort(ids, axis=1)  # something to learn: the next number is a little larger
        return tuple(self.mg.from_numpy(np.ascontiguousarray(a)).to(self.device) for a in (ids[:, :-1], ids[:, 1:]))

    def loss(self, inputs, targets):
        return self.F.cross_entropy(self.model(inputs).view(-1, self.vocab), targets.view(-1))

    def _gradients(self, inputs, targets):
        loss = self.loss(inputs, targets)
        loss.backward()
        return loss

    def step(self, inputs, targets):
        self.optimiser.zero_grad()
        loss = self.gradients(inputs, targets)
        self.mg.optim.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        return loss


def losses(preset, device, steps, batch_size, graph=False):
    trainer = Trainer(preset, device, graph=graph)
    return [float(trainer.step(*trainer.batch(batch_size, i)).item()) for i in range(steps)]


def step_time(xp, preset, batch_size, precision="fp32", graph=False):
    from kernels import gpu

    trainer = Trainer(preset, "emulator" if xp is np else "cuda", graph=graph)
    batch = trainer.batch(batch_size, 0)
    gpu.set_matmul_precision(precision)
    try:
        for _ in range(2 * graph):  # computed as usual, then recorded
            trainer.step(*batch)
        begin = time.perf_counter()
        ms = milliseconds(xp, lambda: trainer.step(*batch), 10)
        return {
            "ms": ms,
            "tokens_per_s": batch_size * trainer.context / ms * 1e3,
            "seconds": time.perf_counter() - begin,
        }
    finally:
        gpu.set_matmul_precision("fp32")


def torch_step_times(preset, batch_size, precision, compiled):
    """The same step in PyTorch: eager, or through torch.compile."""
    torch = torch_on_gpu()
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    layers, heads, width, context, vocab = PRESETS[preset]
    model = torch_gpt(torch, layers, heads, width, context, vocab)
    forward = torch.compile(model) if compiled else model
    optimiser = torch.optim.AdamW(model.parameters(), **ADAMW)
    ids = torch.randint(0, vocab, (batch_size, context + 1), device="cuda")

    def step():
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == "bf16"):
            logits = forward(ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()

    for _ in range(3):
        step()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(11)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    ms = float(np.median([a.elapsed_time(b) for a, b in zip(marks, marks[1:])]))
    torch.backends.cuda.matmul.allow_tf32 = False
    return {"ms": ms, "tokens_per_s": batch_size * context / ms * 1e3}


def torch_gpt(torch, layers, heads, width, context, vocab):
    """GPT-2's architecture in PyTorch's own modules, as its users write it."""
    nn, F = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x):
            B, T, C = x.shape
            q, k, v = (z.view(B, T, heads, C // heads).transpose(1, 2) for z in self.qkv(self.norm1(x)).split(C, dim=2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(y.transpose(1, 2).reshape(B, T, C))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab, width), nn.Embedding(context, width)
            self.blocks, self.norm = nn.ModuleList([Block() for _ in range(layers)]), nn.LayerNorm(width)
            for p in self.parameters():
                if p.ndim == 2:
                    nn.init.normal_(p, std=0.02)

        def forward(self, ids):
            x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
            for block in self.blocks:
                x = block(x)
            return self.norm(x) @ self.tokens.weight.T  # tied, as GPT-2's

    return Model().cuda()

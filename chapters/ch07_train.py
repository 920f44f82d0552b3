"""Chapter 7: the training loop. Guess the next token, measure how wrong, ask every parameter for its share, and step.

    python -m chapters.ch07_train                # trains the tiny GPT on the embedded world, into runs/pretrain
    python -m chapters.ch07_train --preset nanogpt-cpu --data shakespeare.txt --run runs/shakespeare

`train` is written once and used by every later chapter: other batches, another learning rate, another loss, the same
loop. AdamW is that of Loshchilov and Hutter 2017 (arXiv:1711.05101); its betas, the clipping and the cosine schedule
are those of Brown et al. 2020 (arXiv:2005.14165), appendix B.
"""

import math
import signal
import time
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from tqdm import tqdm

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import END_OF_TEXT, Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, train_validation_split, write_tokens
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch06_gpt import PRESETS as SHAPES
from chapters.support.checkpoint import TrainingCheckpoint
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.readers import read_text
from chapters.support.run_folder import Run


@dataclass
class TrainConfig:
    """How to train; what is trained, and on what, is said elsewhere."""

    steps: int = 1000  # optimiser steps
    batch_size: int = 16  # rows in a batch
    lr: float = 3e-4  # highest learning rate, reached after the warm-up
    min_lr: float | None = None  # where the cosine ends, a tenth of lr where None
    warmup_steps: int = 50  # steps of linear rise
    weight_decay: float = 0.1  # pull towards zero, on matrices only
    beta1: float = 0.9  # AdamW's memory of the gradient
    beta2: float = 0.95  # AdamW's memory of its square
    grad_clip: float = 1.0  # longest gradient allowed, 0 for any
    grad_accumulation: int = 1  # batches that share one step
    eval_every: int = 250  # steps between two evaluations
    eval_batches: int = 20  # validation batches in one evaluation
    checkpoint_every: int = 250  # steps between two checkpoints
    keep_best: bool = False  # end with the parameters of the best validation loss, not the last ones
    resume: bool = False  # go on from the run folder's checkpoint
    seed: int = 0  # of everything random

    def __post_init__(self):
        at_least_one(self, "steps", "batch_size", "grad_accumulation", "eval_every", "eval_batches", "checkpoint_every")
        for name in ("warmup_steps", "weight_decay", "grad_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 must be at least 0 and below 1, got {self.beta1} and {self.beta2}")
        if self.lr <= 0 or (self.min_lr is not None and not 0 <= self.min_lr <= self.lr):
            raise ValueError(f"the learning rates must keep 0 <= min_lr <= lr and lr > 0, got {self.min_lr} and {self.lr}")


def next_token_loss(model, inputs, targets):
    """Mean cross-entropy in nats: inputs (B, T) ids, targets (B, T) ids or -100 for "not graded"."""
    logits = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-100)


def train(model, batches, config, run, *, loss_fn=next_token_loss, validation=None, log=tqdm.write):
    """Train `model` in place; returns the History and leaves metrics, checkpoint and loss curve in `run`.

    batches, validation: anything with batch(step) -> a tuple of arrays. loss_fn(model, *those arrays as tensors) ->
    the mean loss, a scalar. The same seed, data and machine write the same metrics.jsonl, byte for byte, however often
    a run is killed and resumed.
    Raises FloatingPointError where loss or gradient become NaN or infinite, KeyboardInterrupt after Ctrl-C (both leave
    a good checkpoint), RunError where the folder cannot be written or its checkpoint belongs to another run.
    """
    mg.manual_seed(config.seed)  # dropout draws from this one
    optimizer = make_optimizer(model, config)
    keeper = TrainingCheckpoint(
        model, optimizer, config, run, data=describe(batches, loss_fn)
    )  # resumes, where that was asked for
    first, tokens, seconds = keeper.step, 0, 1e-9
    model.train()
    quiet = np.errstate(all="ignore")  # NaN and infinity are looked for below, and end in one sentence
    with (
        deferred_interrupt() as pressed,
        quiet,
        tqdm(total=config.steps, initial=keeper.step, unit="step", disable=None) as bar,
    ):
        if keeper.step == 0 and validation is not None:
            keeper.validated(evaluate(model, validation, config.eval_batches, loss_fn), log)
        while keeper.step < config.steps:
            started, rng = time.perf_counter(), mg.default_generator.get_state()
            rate = schedule(keeper.step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate

            losses, seen = forward_and_backward(model, batches, keeper.step, config, loss_fn)
            norm = mg.optim.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
            *losses, norm = as_floats(*losses, norm)  # here a GPU is waited for, once a step
            loss = sum(losses)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                mg.default_generator.set_state(rng)  # so that the inquest sees the very step that failed
                found = inquest(model, batches, keeper.step, config, loss_fn)
                stopped = f"training stopped at step {keeper.step + 1} with loss {loss} and gradient norm {norm}"
                raise FloatingPointError(f"{stopped}: {found}. {keeper.last_good()}")
            optimizer.step()
            optimizer.zero_grad()

            if keeper.step > first:  # the first step of a process also waits for kernels to be compiled or loaded
                tokens, seconds = tokens + seen, seconds + time.perf_counter() - started
            keeper.stepped(loss=loss, lr=rate, grad_norm=norm)
            bar.set_postfix_str(f"loss {loss:.3f}, {tokens / seconds:,.0f} tokens/s", refresh=False)
            bar.update()
            if validation is not None and keeper.due(config.eval_every):
                keeper.validated(evaluate(model, validation, config.eval_batches, loss_fn), log)
            if keeper.due(config.checkpoint_every) or pressed:
                keeper.checkpoint(tokens=tokens, seconds=seconds)
            if pressed:
                raise KeyboardInterrupt(f"stopped after step {keeper.step} and saved in {run.folder}: resume goes on")
    model.eval()
    return keeper.finish(tokens / seconds if tokens else math.nan)


def forward_and_backward(model, batches, step, config, loss_fn):
    """Add the gradients of a step's batches into the parameters.

    Returns the losses, a scalar Tensor a batch, which add up to the mean loss, and the tokens seen.

    Several batches share a step where they would not fit into memory at once: the mean of their losses has the mean of
    their gradients. (Where batches grade different numbers of tokens, each batch still counts the same.)
    """
    losses, seen = [], 0
    for micro in range(config.grad_accumulation):
        batch = to_tensors(batches.batch(step * config.grad_accumulation + micro), model)
        loss = loss_fn(model, *batch) / config.grad_accumulation
        loss.backward()
        losses.append(loss.detach())
        seen += math.prod(batch[0].shape)
    return losses, seen


def as_floats(*scalars):
    """Python's numbers for some scalar Tensors, all in one trip from the device where they live."""
    return mg.stack([scalar.detach() for scalar in scalars]).tolist()


def make_optimizer(model, config):
    """AdamW that decays the matrices and leaves biases and norms alone: those have no size to keep small."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if len(p.shape) >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if len(p.shape) < 2], "weight_decay": 0.0},
    ]
    return mg.optim.AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))


def schedule(step, config):
    """The learning rate of a step (from 0): up along a line, then down along half a cosine to min_lr."""
    lowest = config.lr / 10 if config.min_lr is None else config.min_lr
    return mg.optim.warmup_cosine(step, lr=config.lr, min_lr=lowest, warmup_steps=config.warmup_steps, total_steps=config.steps)


def to_tensors(arrays, model):
    """A batch's arrays as tensors on the model's device."""
    device = next(iter(model.parameters())).device
    return tuple(mg.as_tensor(np.ascontiguousarray(array), device=device) for array in arrays)


def evaluate(model, batches, count, loss_fn=next_token_loss):
    """Mean loss over batch(0) … batch(count - 1), without dropout or gradients; the model's mode is put back."""
    was_training = model.training
    model.eval()
    with mg.no_grad():
        losses = as_floats(*(loss_fn(model, *to_tensors(batches.batch(i), model)) for i in range(count)))
    model.train(was_training)
    return sum(losses) / count


def inquest(model, batches, step, config, loss_fn):
    """Run the failed step again, looking at every operation: which was the first to give NaN or infinity?"""
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.numpy(force=True)).all():
            return f"the parameter {name} held NaN or infinity before the step began"
        parameter.grad = None
    try:
        with mg.autograd.detect_anomaly():
            forward_and_backward(model, batches, step, config, loss_fn)
    except FloatingPointError as error:
        return str(error)
    return "no operation gave NaN or infinity, only the norm of the gradients overflows"


def describe(batches, loss_fn):
    """What tells this run's data and loss from another's; resuming compares it."""
    return f"{getattr(batches, 'signature', type(batches).__name__)}, {getattr(loss_fn, '__name__', 'a loss')}"


@contextmanager
def deferred_interrupt():
    """Yields a list that Ctrl-C fills, so that no step is cut in half; a second Ctrl-C is not waited for."""
    pressed = []

    def note(signum, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(signum)

    try:
        before = signal.signal(signal.SIGINT, note)
    except ValueError:  # only the main thread may ask
        yield pressed
        return
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, before)


# ── the command line: pretraining ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(TrainConfig, OnDevice):
    """Pretrain a GPT on the embedded world or on any text. `--preset NAME --help` shows that preset's values."""

    run: str = "runs/pretrain"  # the folder for everything that comes out
    preset: Literal["tiny", "book", "gpt2", "nanogpt-cpu"] = "tiny"  # a shape, and how to train it
    data: str = "world"  # "world" for the embedded one, or the path of a UTF-8 text file
    world_bytes: int = 2_000_000  # how much of the world to generate
    validation_fraction: float = 0.1  # share of the tokens, at the end, that is never trained on
    tokenizer: Literal["bpe", "characters", "gpt2"] = "bpe"  # bpe is learned from the text itself
    vocab_size: int = 1024  # tokens that bpe may have
    context: int = 256  # tokens the model sees at once
    n_layer: int = 4  # blocks
    n_head: int = 4  # heads in a block
    d_model: int = 128  # width of the residual stream
    dropout: float = 0.0  # share of activations zeroed in training
    bias: bool = True  # biases in linear layers and norms
    quick: bool = False  # a few seconds' training of a very small model

    lr: float = 1e-3  # a small model bears more than the book's 3e-4


PRESETS = {
    "tiny": {},
    "book": dict(SHAPES["book"], lr=3e-4, vocab_size=4096),
    "gpt2": dict(SHAPES["gpt2"], lr=3e-4, tokenizer="gpt2", batch_size=4),
    # What nanoGPT's README gives for a CPU, with its rates and its seed (github.com/karpathy/nanoGPT): 1.88 there on
    # Shakespeare, estimated on 20 random batches as it is here during training.
    "nanogpt-cpu": dict(
        **dict(tokenizer="characters", context=64, batch_size=12, steps=2000, warmup_steps=100, beta2=0.99),
        **dict(bias=False, seed=1337),
    ),
    "quick": dict(
        **dict(steps=60, batch_size=8, warmup_steps=5, eval_every=30, eval_batches=4, checkpoint_every=30),
        **dict(n_layer=2, n_head=2, d_model=64, context=64, vocab_size=512, world_bytes=200_000),
    ),
}


def prepare(settings, run):
    """The settings' text as tokens in the run's folder.  Returns the tokenizer, training and validation tokens."""
    if settings.data == "world":
        from chapters.world import World

        documents = World(seed=settings.seed).documents(settings.world_bytes, seed=settings.seed)
    else:
        documents = [part for part in read_text(settings.data).split(END_OF_TEXT) if part]
    text = "\n".join(documents)
    if settings.tokenizer == "gpt2":
        tokenizer = Tokenizer.gpt2()
    elif settings.tokenizer == "characters":
        tokenizer = Tokenizer.characters(text)
    else:
        tokenizer = Tokenizer.train(text[:1_000_000], settings.vocab_size)  # a megabyte of text knows the words
    if len(documents) == 1:
        ids = tokenizer.encode(text)
    else:
        ids = [i for document in documents for i in (*tokenizer.encode(document), tokenizer.eos_id)]
    tokens = write_tokens(run / "tokens.bin", ids)  # (N,)
    train_tokens, validation_tokens = train_validation_split(tokens, settings.validation_fraction)
    if min(len(train_tokens), len(validation_tokens)) <= settings.context:
        raise ValueError(
            f"the text has {len(train_tokens)} tokens to train on and {len(validation_tokens)} to validate on, but a "
            f"window needs context + 1 = {settings.context + 1} of each: give a longer text or a smaller context"
        )
    return tokenizer, train_tokens, validation_tokens


def pretrain(settings):
    """Tokenize, build, train, measure on every validation token once, save.  Returns model, tokenizer, History."""
    run = Run(settings.run)
    if settings.resume:
        run.must_match(command=settings, free=("resume", "run", "checkpoint_every", "device"))
    tokenizer, train_tokens, validation_tokens = prepare(settings, run)
    shape = {name: getattr(settings, name) for name in ("context", "n_layer", "n_head", "d_model", "dropout", "bias")}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape), mg.Generator(settings.seed))
    run.describe(command=settings, model=model.config)
    print(f"{model.num_parameters():,} parameters; {len(train_tokens):,} tokens of {tokenizer.vocab_size} kinds")

    batches = NextTokenBatches(train_tokens, settings.context, settings.batch_size, settings.seed)
    validation = NextTokenBatches(validation_tokens, settings.context, settings.batch_size, settings.seed)
    config = TrainConfig(**{f.name: getattr(settings, f.name) for f in fields(TrainConfig)})
    history = train(model, batches, config, run, validation=validation)

    every = EveryTokenOnce(validation_tokens, settings.context, settings.batch_size)
    loss = evaluate(model, every, len(every))
    save_model(run, model, tokenizer)
    print(f"validation loss on every token: {loss:.4f} nats ({math.exp(loss):.1f} choices a token)")
    speed = "" if math.isnan(history.tokens_per_second) else f"{history.tokens_per_second:,.0f} tokens/s; "
    print(f"{speed}loss curve, metrics and model are in {run.folder}")
    return model, tokenizer, history


if __name__ == "__main__":
    command(pretrain, Settings, PRESETS)

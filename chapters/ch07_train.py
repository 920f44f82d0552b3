"""Chapter 7: the training loop. Predict the next token, measure the error, find each parameter's share in it, and step.

    python -m chapters.ch07_train                # trains the tiny GPT on the little world, into runs/pretrain
    python -m chapters.ch07_train --preset nanogpt-cpu --data shakespeare.txt --run runs/shakespeare

`train_plainly` is the whole idea: batch, loss, backward, step. `train` is the loop that every later chapter uses, with
other batches, another learning rate or another loss. Look at the first loss, which is near ln V, the loss of a uniform
guess over V tokens; and at figures/loss.svg, where training and validation loss fall together or drift apart.

Sources: AdamW is Loshchilov and Hutter 2017 (arXiv:1711.05101); its betas, the clipping and the cosine schedule
follow Brown et al. 2020 (arXiv:2005.14165), appendix B.
"""

import math
import re
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import END_OF_TEXT, Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, load_tokens, train_validation_split, write_tokens
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch06_gpt import PRESETS as SHAPES
from chapters.support.batches import Batches
from chapters.support.checkpoint import TrainingCheckpoint, deferred_interrupt
from chapters.support.command import InShards, above, at_least, at_least_one, command, progress_bar
from chapters.support.readers import read_text
from chapters.support.run_folder import WHAT_TO_DO, History, Run, RunError, stopped
from chapters.support.shared_training import SharedTraining, share_training
from minigrad import Tensor, distributed

LossFunction = Callable[..., Tensor]  # (model, *one batch's arrays as tensors) -> the mean loss, a scalar


def next_token_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy in nats; inputs: (B, T) ids, targets: (B, T) ids, or -100 where nothing is graded."""
    logits = model(inputs)  # (B, T, V)
    return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1), ignore_index=-100)


def train_plainly(model: nn.Module, batches: Batches, steps: int, lr: float = 3e-4) -> list[float]:
    """Train `model` in place with the plainest loop there is; returns the losses in nats."""
    optimizer = mg.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    for step in range(steps):
        inputs, targets = (mg.tensor(array) for array in batches.batch(step))  # (B, T) each
        loss = next_token_loss(model, inputs, targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


# ── the loop for long runs ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class TrainConfig:
    """How to train, whatever the model and the data."""

    steps: int = 1000  # optimizer steps
    batch_size: int = 16  # rows in a batch
    lr: float = 3e-4  # peak learning rate, reached after the warm-up
    muon_lr: float = 0.0  # Muon's peak learning rate for the matrices of the blocks; 0: AdamW trains them too
    min_lr: float | None = None  # learning rate at the end of the cosine, lr / 10 if None
    warmup_steps: int = 50  # steps of linear warm-up
    weight_decay: float = 0.1  # decoupled weight decay, on matrices only
    beta1: float = 0.9  # AdamW's decay rate of the gradient's mean
    beta2: float = 0.95  # AdamW's decay rate of the squared gradient's mean
    grad_clip: float = 1.0  # largest gradient norm, 0 for no limit
    grad_accumulation: int = 1  # batches that share one step
    shard_optimizer: bool = False  # each of mpiexec's processes keeps the optimizer's state of its own parameters (ZeRO-1)
    eval_every: int = 250  # steps between two evaluations
    eval_batches: int = 20  # validation batches in one evaluation
    checkpoint_every: int = 250  # steps between two checkpoints
    keep_best: bool = False  # end with the parameters that had the best validation loss, not with the last step's
    resume: bool = False  # continue from the run folder's checkpoint
    seed: int = 0  # random seed

    def __post_init__(self) -> None:
        at_least_one(self, "steps", "batch_size", "grad_accumulation", "eval_every", "eval_batches", "checkpoint_every")
        at_least(self, 0, "warmup_steps", "weight_decay", "grad_clip", "muon_lr")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 must be at least 0 and below 1, got {self.beta1} and {self.beta2}")
        above(self, 0, "lr")
        if self.min_lr is not None and not 0 <= self.min_lr <= self.lr:
            raise ValueError(f"learning rates: expected 0 <= min_lr <= lr, got {self.min_lr} and {self.lr}")


def train(
    model: nn.Module,
    batches: Batches,
    config: TrainConfig,
    run: Run,
    *,
    loss_fn: LossFunction = next_token_loss,
    validation: Batches | None = None,
    log: Callable[[str], None] = tqdm.write,
    observe: Callable[[int], None] | None = None,
) -> History:
    """Train `model` in place: the loop of `train_plainly`, made fit for long runs.

    It adds gradient accumulation and clipping, a learning-rate schedule, evaluation, checkpoints from which a run
    resumes exactly, and a search for the first operation that produced NaN or infinity. Metrics, checkpoint and loss
    curve go into `run`. The same seed, data and machine give the same bytes in metrics.jsonl, however often a run is
    killed and resumed.

    Args:
        observe: called with the number of finished steps before the first step and at every checkpoint. A resumed run
            repeats some calls.

    Raises:
        FloatingPointError: if the loss or the gradient norm is no longer finite; the last checkpoint stays.
        KeyboardInterrupt: after Ctrl-C, once the step is finished and saved.
        RunError: if the folder cannot be written, or its checkpoint belongs to another run.
    """
    mg.manual_seed(config.seed)  # seeds dropout
    optimizer = make_optimizer(model, config)
    data = describe(batches, loss_fn)
    shared = share_training(model, optimizer, config, data)  # with the other ranks, if mpiexec started several
    optimizer = shared.optimizer if shared else optimizer
    state = TrainingCheckpoint(model, optimizer, config, run, data)  # resumes if asked to
    model.train()
    bar = progress_bar(config.steps, state.step, "step")
    quiet = np.errstate(all="ignore")  # the loop checks for NaN and infinity itself
    with deferred_interrupt() as interrupts, quiet, bar, shared or nullcontext():
        if state.step == 0 and validation is not None:
            state.validated(evaluate(model, validation, config.eval_batches, loss_fn), log)
        if state.step == 0 and observe is not None:
            observe(0)
        while state.step < config.steps:
            started = time.perf_counter()
            lr = schedule(state.step, config)
            for group in optimizer.param_groups:
                group["lr"] = config.muon_lr * lr / config.lr if group.get("use_muon") else lr
            loss, norm, tokens = compute_gradients(model, batches, state, config, loss_fn, shared)
            optimizer.step()
            optimizer.zero_grad()
            state.count_step(tokens, time.perf_counter() - started, loss=loss, lr=lr, grad_norm=norm)
            bar.set_postfix_str(f"loss {loss:.3f}, {state.tokens / state.seconds:,.0f} tokens/s", refresh=False)
            bar.update()
            if validation is not None and state.due(config.eval_every):
                state.validated(evaluate(model, validation, config.eval_batches, loss_fn), log)
            if observe is not None and state.due(config.checkpoint_every):
                observe(state.step)
            stop = distributed.current().true_on_any(bool(interrupts))  # all ranks stop after the same step
            if state.due(config.checkpoint_every) or stop:
                state.save()
            if stop:
                raise KeyboardInterrupt(stopped(f"step {state.step}", run, config.resume))
    model.eval()
    return state.finish()


def compute_gradients(
    model: nn.Module,
    batches: Batches,
    state: TrainingCheckpoint,
    config: TrainConfig,
    loss_fn: LossFunction,
    shared: SharedTraining | None = None,
) -> tuple[float, float, int]:
    """Compute and clip the next step's gradients.

    Returns:
        The loss, the gradient norm before clipping, and the number of tokens.

    Raises:
        FloatingPointError: if the loss or the norm is not finite; the message names the cause.
    """
    rng = mg.default_generator.get_state()
    if shared:
        losses, tokens = shared.forward_and_backward(batches, state.step, lambda arrays: loss_of(model, arrays, loss_fn))
        norm = shared.clip_grad_norm_(config.grad_clip or math.inf).item()
    else:
        batch_losses, tokens = forward_and_backward(model, batches, state.step, config, loss_fn)
        gradient_norm = mg.optim.clip_grad_norm_(model.parameters(), config.grad_clip or math.inf)
        *losses, norm = as_floats(*batch_losses, gradient_norm)  # the only wait for a GPU in a step
    loss = sum(losses)
    if not (math.isfinite(loss) and math.isfinite(norm)):
        mg.default_generator.set_state(rng)  # so that the inquest repeats the same step
        cause = inquest(model, batches, state.step, config, loss_fn)
        stop = f"training stopped at step {state.step + 1} with loss {loss} and gradient norm {norm}"
        raise FloatingPointError(f"{stop}: {cause}. {state.last_good()}")
    return loss, norm, tokens


def forward_and_backward(
    model: nn.Module, batches: Batches, step: int, config: TrainConfig, loss_fn: LossFunction
) -> tuple[list[Tensor], int]:
    """Add the gradients of a step's batches to the parameters.

    If one large batch does not fit into memory, several small ones share a step: the gradient of their mean loss is the
    mean of their gradients. Each has the same weight, even if the numbers of graded tokens differ.

    Returns:
        The batches' losses, scalars that add up to the step's mean loss, and the number of tokens.
    """
    losses, tokens = [], 0
    for micro in range(config.grad_accumulation):
        arrays = batches.batch(step * config.grad_accumulation + micro)
        loss = loss_of(model, arrays, loss_fn) / config.grad_accumulation
        loss.backward()
        losses.append(loss.detach())
        tokens += math.prod(arrays[0].shape)
    return losses, tokens


def loss_of(model: nn.Module, arrays: Iterable[np.ndarray], loss_fn: LossFunction) -> Tensor:
    """The mean loss of a batch's arrays."""
    return loss_fn(model, *to_tensors(arrays, model))


def as_floats(*scalars: Tensor) -> list[float]:
    """Scalar tensors as Python floats, fetched from their device in one transfer."""
    return mg.stack([scalar.detach() for scalar in scalars]).tolist()


IN_A_BLOCK = re.compile(r"(^|\.)h\.\d+\.")  # the name of a parameter in a block of a GPT, or of a model around a GPT


def make_optimizer(model: nn.Module, config: TrainConfig) -> mg.optim.AdamW:
    """AdamW with weight decay on the matrices only: decaying biases and norm weights does not help.

    With muon_lr, Muon trains the matrices of the blocks. Three iterations of its polynomial do as well here as the usual five.
    """
    parameters = list(model.parameters())
    named = model.named_parameters() if config.muon_lr else ()
    matrices = [p for name, p in named if IN_A_BLOCK.search(name) and len(p.shape) == 2]
    muon = {id(p) for p in matrices}
    decay, betas = config.weight_decay, (config.beta1, config.beta2)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if len(p.shape) >= 2 and id(p) not in muon], "weight_decay": decay, "lr": config.lr},
        {"params": [p for p in parameters if len(p.shape) < 2], "weight_decay": 0.0, "lr": config.lr},
    ]
    if not matrices:
        return mg.optim.AdamW(groups, betas=betas)
    hidden = {"params": matrices, "weight_decay": decay, "lr": config.muon_lr, "use_muon": True, "ns_steps": 3}
    return mg.optim.MuonWithAuxAdam([hidden, *({**group, "betas": betas} for group in groups)])


def schedule(step: int, config: TrainConfig) -> float:
    """The learning rate of a step, counted from 0: a linear rise, then half a cosine down to min_lr."""
    lowest = config.lr / 10 if config.min_lr is None else config.min_lr
    return mg.optim.warmup_cosine(step, lr=config.lr, min_lr=lowest, warmup_steps=config.warmup_steps, total_steps=config.steps)


def to_tensors(arrays: Iterable[np.ndarray], model: nn.Module) -> tuple[Tensor, ...]:
    """A batch's arrays as tensors on the model's device."""
    device = next(iter(model.parameters())).device
    return tuple(mg.as_tensor(np.ascontiguousarray(array), device=device) for array in arrays)


def evaluate(model: nn.Module, batches: Batches, count: int, loss_fn: LossFunction = next_token_loss) -> float:
    """Mean loss over the rows of batch(0) … batch(count - 1), without dropout or gradients; the model's mode is restored."""
    was_training = model.training
    model.eval()
    sharing = distributed.current()
    losses, rows = [], []
    with mg.no_grad():
        for i in sharing.own(count):  # each rank takes some of the batches
            batch = batches.batch(i)
            losses.append(loss_of(model, batch, loss_fn))
            rows.append(len(batch[0]))
    model.train(was_training)
    of_every_rank = sharing.group.gather_objects(list(zip(as_floats(*losses) if losses else [], rows)))
    values, weights = zip(*(pair for pairs in of_every_rank for pair in pairs))
    return float(np.average(values, weights=weights))


def inquest(model: nn.Module, batches: Batches, step: int, config: TrainConfig, loss_fn: LossFunction) -> str:
    """Repeat the failed step with every operation checked, and name the first that produced NaN or infinity.

    Ranks that share the step each repeat it as a whole, with other dropout masks, and so come to the same result.
    """
    for name, parameter in model.named_parameters():
        if not np.isfinite(parameter.numpy(force=True)).all():
            return f"the parameter {name} held NaN or infinity before the step began"
        parameter.grad = None
    try:
        with mg.autograd.detect_anomaly():
            forward_and_backward(model, batches, step, config, loss_fn)
    except FloatingPointError as error:
        return str(error)
    return "no operation produced NaN or infinity, only the gradient norm overflows"


def describe(batches: Batches, loss_fn: LossFunction) -> str:
    """A text that identifies a run's data and loss; resuming compares it."""
    return f"{getattr(batches, 'signature', type(batches).__name__)}, {getattr(loss_fn, '__name__', 'a loss')}"


# ── the command line: pretraining ────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(TrainConfig, InShards):
    """Pretrain a GPT on the little world or on any text. `--preset NAME --help` shows that preset's values."""

    run: str = "runs/pretrain"  # run folder for all output
    preset: Literal["tiny", "book", "gpt2", "nanogpt-cpu"] = "tiny"  # model shape and training settings
    data: str = "world"  # path of a UTF-8 text file, or "world" for the little world
    world_bytes: int = 2_000_000  # bytes of the little world to generate
    validation_fraction: float = 0.1  # share of the tokens, at the end of the text, held out for validation
    tokenizer: Literal["bpe", "characters", "gpt2"] = "bpe"  # vocabulary; bpe is trained on the text itself
    vocab_size: int = 1024  # largest number of bpe tokens
    context: int = 256  # tokens the model sees at once
    n_layer: int = 4  # blocks
    n_head: int = 4  # attention heads in a block
    d_model: int = 128  # width of the residual stream
    dropout: float = 0.0  # share of activations zeroed in training
    bias: bool = True  # biases in linear layers and norms
    quick: bool = False  # a few seconds of training with a very small model

    lr: float = 1e-3  # peak learning rate; small models tolerate more than the book's 3e-4


ON_RANKS = ("shards", "any_order", "shard_optimizer")  # the checkpoint compares the number of shards
NANOGPT: dict[str, Any] = dict(tokenizer="characters", context=64, batch_size=12, steps=2000, warmup_steps=100, beta2=0.99)
QUICK: dict[str, Any] = dict(steps=60, batch_size=8, warmup_steps=5, eval_every=30, eval_batches=4, checkpoint_every=30)
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {},
    "book": dict(SHAPES["book"], lr=3e-4, vocab_size=4096),
    "gpt2": dict(SHAPES["gpt2"], lr=3e-4, tokenizer="gpt2", batch_size=4),
    # The CPU settings in nanoGPT's README (github.com/karpathy/nanoGPT). nanoGPT reports a validation loss of 1.88 on
    # Shakespeare, estimated on 20 random batches; the loop above estimates its validation loss the same way.
    "nanogpt-cpu": NANOGPT | dict(bias=False, seed=1337),
    "quick": QUICK | dict(n_layer=2, n_head=2, d_model=64, context=64, vocab_size=512, world_bytes=200_000),
}


def prepare(settings: Settings, run: Run) -> tuple[Tokenizer, np.ndarray, np.ndarray]:
    """Tokenize the text into the run folder; returns the tokenizer, the training and the validation tokens."""
    if settings.data == "world":
        from chapters.world import World

        documents = World(seed=settings.seed).documents(settings.world_bytes, seed=settings.seed)
    else:
        documents = [part for part in read_text(settings.data).split(END_OF_TEXT) if part]
    text = "\n".join(documents)
    if settings.tokenizer == "gpt2":
        tokenizer: Tokenizer = Tokenizer.gpt2()
    elif settings.tokenizer == "characters":
        tokenizer = Tokenizer.characters(text)
    else:
        tokenizer = Tokenizer.train(text[:1_000_000], settings.vocab_size)  # a megabyte is enough to rank the pairs
    if len(documents) == 1:
        ids = tokenizer.encode(text)
    else:
        ids = [i for document in documents for i in (*tokenizer.encode(document), tokenizer.eos_id)]
    path = run / "tokens.bin"
    if settings.resume and path.exists() and not np.array_equal(load_tokens(path), ids):
        raise RunError(f"resume: {run.folder} was trained on another text; {WHAT_TO_DO}")
    tokens = write_tokens(path, ids)  # (N,)
    train_tokens, validation_tokens = train_validation_split(tokens, settings.validation_fraction)
    if min(len(train_tokens), len(validation_tokens)) <= settings.context:
        raise ValueError(
            f"data: the text has {len(train_tokens)} tokens to train on and {len(validation_tokens)} to validate on, but a "
            f"window needs context + 1 = {settings.context + 1} of each; give a longer text or a smaller context"
        )
    return tokenizer, train_tokens, validation_tokens


def pretrain(settings: Settings) -> tuple[GPT, Tokenizer, History]:
    """Tokenize, build the model, train it, measure the loss on every validation token once, and save."""
    run = Run(settings.run)
    if settings.resume:
        run.must_match(command=settings, free=("resume", "run", "checkpoint_every", "device", *ON_RANKS))
    tokenizer, train_tokens, validation_tokens = prepare(settings, run)
    shape = {name: getattr(settings, name) for name in ("context", "n_layer", "n_head", "d_model", "dropout", "bias")}
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **shape), mg.Generator(settings.seed))
    run.describe(command=settings, model=model.config)
    print(f"{model.num_parameters():,} parameters; {len(train_tokens):,} tokens, vocabulary of {tokenizer.vocab_size}")

    batches = NextTokenBatches(train_tokens, settings.context, settings.batch_size, settings.seed)
    validation = NextTokenBatches(validation_tokens, settings.context, settings.batch_size, settings.seed)
    config = TrainConfig(**{f.name: getattr(settings, f.name) for f in fields(TrainConfig)})
    history = train(model, batches, config, run, validation=validation)

    every = EveryTokenOnce(validation_tokens, settings.context, settings.batch_size)
    loss = evaluate(model, every, len(every))
    save_model(run, model, tokenizer)
    print(f"loss on all validation tokens: {loss:.4f} nats (perplexity {math.exp(loss):.1f})")
    speed = "" if math.isnan(history.tokens_per_second) else f"{history.tokens_per_second:,.0f} tokens/s; "
    print(f"{speed}loss curve, metrics and model are in {run.folder}")
    return model, tokenizer, history


if __name__ == "__main__":
    command(pretrain, Settings, PRESETS)

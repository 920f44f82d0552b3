"""Chapter 10: responses sampled from a policy, and their log-probabilities. Every method of section 10.4 needs them.

In reinforcement learning's terms a language model is a policy whose actions are tokens. A rollout is a prompt and the response
that the policy sampled. All rollouts of a batch share one grid. Column i of `inputs` is a token; column i of the mask, the
log-probabilities, the values and the advantages belongs to the choice of the *next* token. This is section 10.3's shift by one.

    inputs    what   is   two   plus   two   Four   .     <end>
    mask       ·     ·     ·     ·     seam   ✓     ✓              the policy chose Four, . and <end>
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch06_gpt import GPT
from chapters.ch08_sample import generate
from chapters.ch10.sft import format_prompt, graded_logits
from chapters.support.batches import IGNORE_INDEX, by_length, pad_right, shortest_first
from chapters.world import Instruction
from minigrad import distributed

PAD = 0  # any id will do, because the mask tells padding from tokens


@dataclass
class Rollouts:
    """B prompts with one response each.  T is the length of the longest prompt with its response."""

    prompts: list[list[int]]  # token ids
    responses: list[list[int]]  # token ids, with the end-of-text token if the policy chose it
    ended: np.ndarray  # (B,) bool: True if the policy ended the response, False if the length limit did
    inputs: np.ndarray  # (B, T) int64, padded on the right
    targets: np.ndarray  # (B, T − 1) int64: the token after each column, IGNORE_INDEX if the policy did not choose it
    mask: np.ndarray  # (B, T − 1) bool: whether the policy chose the token after this column
    log_probs: np.ndarray | None = None  # (B, T − 1) float32: log-probabilities at the time of sampling, 0 outside the mask
    reference_log_probs: np.ndarray | None = None  # (B, T − 1) float32: the frozen SFT model's, which `optimise` adds

    @property
    def last(self) -> np.ndarray:
        """(B,) int64: the column whose choice was the last token of the response."""
        return np.array([len(p) + len(r) - 2 for p, r in zip(self.prompts, self.responses, strict=True)])

    @property
    def rows(self) -> list[list[int]]:
        """B lists of token ids: prompt and response."""
        return [p + r for p, r in zip(self.prompts, self.responses, strict=True)]

    @property
    def old_log_probs(self) -> np.ndarray:
        """The policy's log-probabilities at the time of sampling, (B, T − 1).  Raises ValueError if none were recorded."""
        if self.log_probs is None:
            raise ValueError("old_log_probs: expected rollouts with log-probabilities, got none; use roll_out's record=True")
        return self.log_probs

    @property
    def lengths(self) -> np.ndarray:
        """(B,) int64: tokens in each response, the end-of-text token included."""
        return self.mask.sum(axis=1)

    def token_share(self, part: np.ndarray, rows: Any = slice(None)) -> float:
        """The share of some rows in all tokens that the policy chose in `rows`."""
        return np.count_nonzero(self.mask[part]) / np.count_nonzero(self.mask[rows])

    def action_inputs(self, rows: Any = slice(None)) -> mg.Tensor:
        """The inputs of some rows without the last column, after which the policy chooses nothing: (b, T − 1)."""
        return mg.as_tensor(np.ascontiguousarray(self.inputs[rows, :-1]))

    def texts(self, tokenizer: Any) -> list[str]:
        """The responses as text, without the end-of-text token."""
        cut = [r[:-1] if e else r for r, e in zip(self.responses, self.ended, strict=True)]
        return [tokenizer.decode(response).strip() for response in cut]


def to_rollouts(
    prompts: list[list[int]],
    responses: list[list[int]],
    ended: Sequence[bool],
    log_probs: Sequence[Any] | None = None,
) -> Rollouts:
    """Lay out B prompts and responses on the grid.  log_probs: one number for each token of each response."""
    inputs = pad_right([p + r for p, r in zip(prompts, responses, strict=True)], PAD)  # (B, T)
    B, T = inputs.shape
    mask = np.zeros((B, T - 1), bool)  # (B, T − 1)
    recorded = np.zeros((B, T - 1), np.float32)  # (B, T − 1)
    for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        chosen = slice(len(prompt) - 1, len(prompt) - 1 + len(response))  # begins at the seam, the prompt's last token
        mask[b, chosen] = True
        if log_probs is not None:
            recorded[b, chosen] = log_probs[b]
    targets = np.where(mask, inputs[:, 1:], IGNORE_INDEX)  # (B, T − 1)
    return Rollouts(prompts, responses, np.asarray(ended), inputs, targets, mask, None if log_probs is None else recorded)


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Recorder:
    """Records the logits of every step of chapter 8's `generate`, which calls it as `observe`.

    At step t `generate` still works on the rows whose response has more than t tokens, in their original order.
    """

    def __init__(self) -> None:
        self.steps: list[np.ndarray] = []  # (rows, V) for each step

    def __call__(self, logits: np.ndarray) -> None:
        self.steps.append(logits)

    def log_probs(self, responses: Sequence[Sequence[int]]) -> list[list[float]]:
        """The log-probability of each token of each response."""
        result: list[list[float]] = [[] for _ in responses]
        for t, logits in enumerate(self.steps):
            rows = [b for b, response in enumerate(responses) if len(response) > t]
            chosen = np.array([responses[b][t] for b in rows])  # (rows,)
            logits = logits.astype(np.float64)  # (rows, V)
            top = logits.max(axis=1)  # (rows,)
            total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))  # (rows,)
            for b, value in zip(rows, logits[np.arange(len(rows)), chosen] - total, strict=True):
                result[b].append(value)
        return result


def roll_out(
    policy: GPT,
    tokenizer: Any,
    tasks: Sequence[Instruction],
    max_new_tokens: int,
    generator: mg.Generator,
    temperature: float = 1.0,
    record: bool = True,
) -> Rollouts:
    """Sample one response for each task, and record the log-probabilities of its tokens. Ranks share the tasks out.

    Temperature 1 samples from the policy itself, as the policy gradient assumes. The log-probabilities are the policy's own
    at any temperature; record=False leaves them out.

    Raises:
        ValueError: if a prompt leaves no room for a response in the context.
    """

    def sample(tasks: Sequence[Instruction], generator: mg.Generator) -> Rollouts:
        return sample_batch(policy, tokenizer, tasks, max_new_tokens, generator, temperature, record)

    return joined(distributed.current().map_shards(sample, tasks, generator))


def sample_batch(
    policy: GPT,
    tokenizer: Any,
    tasks: Sequence[Instruction],
    max_new_tokens: int,
    generator: mg.Generator,
    temperature: float,
    record: bool,
) -> Rollouts:
    """`roll_out` in this process."""
    prompts = [tokenizer.encode(format_prompt(task.instruction, task.input)) for task in tasks]
    return sample_after(policy, prompts, max_new_tokens, generator, tokenizer.eos_id, temperature, record)


def sample_after(
    policy: GPT,
    prompts: list[list[int]],
    max_new_tokens: int,
    generator: mg.Generator,
    end: int,
    temperature: float = 1.0,
    record: bool = True,
) -> Rollouts:
    """Sample one response to each prompt.  prompts: token ids.  end: the end-of-text token."""
    rooms = [policy.config.context - len(prompt) for prompt in prompts]
    if min(rooms, default=1) < 1:
        raise ValueError(
            f"roll_out: expected prompts that leave room in a context of {policy.config.context} tokens, got a "
            f"prompt of {max(map(len, prompts))} tokens; give shorter instructions or a model with a longer context"
        )
    limits = [min(max_new_tokens, room) for room in rooms]
    recorder = Recorder() if record else None
    generated = generate(
        policy, prompts, limits, temperature=temperature, stop_ids=(end,), generator=generator, observe=recorder
    )
    # generate leaves the end-of-text token out
    ended = [len(response) < limit for response, limit in zip(generated, limits, strict=True)]
    responses = [response + [end] if e else response for response, e in zip(generated, ended, strict=True)]
    return to_rollouts(prompts, responses, ended, recorder.log_probs(responses) if recorder else None)


def roll_out_many(
    policy: GPT,
    tokenizer: Any,
    tasks: Sequence[Instruction],
    max_new_tokens: int,
    generator: mg.Generator,
    temperature: float = 1.0,
    batch_size: int = 256,
) -> Rollouts:
    """Like roll_out without log-probabilities, for any number of tasks, in batches of prompts of similar length."""

    def sample(tasks: Sequence[Instruction], generator: mg.Generator) -> Rollouts:
        prompts = [tokenizer.encode(format_prompt(task.instruction, task.input)) for task in tasks]
        responses: list[list[int]] = [[] for _ in prompts]
        ended = [False] * len(prompts)
        for places in shortest_first(prompts, batch_size):
            batch = [tasks[i] for i in places]
            part = sample_batch(policy, tokenizer, batch, max_new_tokens, generator, temperature, False)
            for i, response, end in zip(places, part.responses, part.ended, strict=True):
                responses[i], ended[i] = response, bool(end)
        return to_rollouts(prompts, responses, ended)

    return joined(distributed.current().map_shards(sample, tasks, generator))


def joined(parts: Sequence[Rollouts]) -> Rollouts:
    """The rollouts of several batches as one batch."""
    if len(parts) == 1:
        return parts[0]
    log_probs = None
    if all(part.log_probs is not None for part in parts):
        log_probs = [row[chosen] for part in parts for row, chosen in zip(part.old_log_probs, part.mask, strict=True)]
    prompts, responses = ([row for part in parts for row in getattr(part, name)] for name in ("prompts", "responses"))
    return to_rollouts(prompts, responses, np.concatenate([part.ended for part in parts]).tolist(), log_probs)


# ── log-probabilities ────────────────────────────────────────────────────────────────────────────────────────────────


def chosen_log_probs(logits: mg.Tensor, targets: mg.Tensor) -> mg.Tensor:
    """log softmax(logits)[target], or 0 where the target is IGNORE_INDEX: chapter 7's cross-entropy with the sign changed.

    Shapes: (B, T, V), (B, T) -> (B, T).
    """
    B, T, V = logits.shape
    flat = logits.view(-1, V), targets.view(-1)  # (B·T, V), (B·T,)
    return -F.cross_entropy(*flat, ignore_index=IGNORE_INDEX, reduction="none").view(B, T)


def score_targets(model: GPT, inputs: mg.Tensor, targets: np.ndarray) -> tuple[mg.Tensor, mg.Tensor]:
    """`chosen_log_probs` of the model's logits; the model scores only the N positions with a target.

    Shapes: inputs and targets (B, T) -> log-probabilities (B, T) and logits (N, V).
    """
    logits, graded_targets, at = graded_logits(model, inputs, targets)  # (N, V), (N,), (N,)
    chosen = -F.cross_entropy(logits, graded_targets, reduction="none")  # (N,)
    return mg.zeros_like(inputs, dtype=chosen.dtype).view(-1).index_add(0, at, chosen).view(*targets.shape), logits


def log_probs_of(model: GPT, rollouts: Rollouts, batch_size: int = 64) -> np.ndarray:
    """The model's log-probabilities of the tokens in the rollouts, without gradients: (B, T − 1) float32."""
    rows, was_training = rollouts.rows, model.training
    model.eval()

    def score(numbers: Sequence[int]) -> np.ndarray:
        part = np.zeros((len(numbers), rollouts.mask.shape[1]), np.float32)  # (n, T − 1)
        for places, inputs in by_length([rows[i] for i in numbers], batch_size, PAD):
            targets = rollouts.targets[numbers[0] + places, : inputs.shape[1] - 1]  # (b, t)
            chosen = score_targets(model, mg.as_tensor(inputs[:, :-1].copy()), targets)[0]  # (b, t)
            part[places, : targets.shape[1]] = chosen.numpy(force=True)
        return part

    with mg.no_grad():
        log_probs = np.concatenate(distributed.current().map_shards(score, range(len(rows))))  # (B, T − 1)
    model.train(was_training)
    return log_probs


def sequence_kl(log_probs: np.ndarray, reference_log_probs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An unbiased estimate of KL(policy ‖ reference) for each response, in nats: Σ log π − log π_ref over its tokens.

    The responses must be sampled from the policy. A single estimate can be negative; the mean of many is not.
    Shapes: three times (B, T) -> (B,).
    """
    return ((log_probs - reference_log_probs) * mask).sum(axis=1)  # (B,)

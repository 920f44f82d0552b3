"""Chapter 10, what every method of the second bend needs: responses sampled from a policy, and their log-probabilities.

What this file teaches: seen from reinforcement learning, a language model is a policy whose actions are tokens. A
rollout is a prompt and the response that the policy drew for it, and everything known of it is laid out on one grid:
column i of `inputs` is a token, and column i of `mask`, of log-probabilities, of values and of advantages belongs to
the choice of the token after it. Prompts choose nothing, and nothing is chosen after the end; there the mask is False.
Source of the layout: section 10.3's shift by one, the same as in build_example.
"""

from dataclasses import dataclass

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch08_sample import generate
from chapters.ch10.sft import format_prompt
from chapters.support.batches import IGNORE_INDEX, by_length, pad_right

PAD = 0  # any id will do: padding is known by the mask, never by its id, so that it cannot be taken for end-of-text


@dataclass
class Rollouts:
    """B prompts with a response each.  T is the longest of prompt and response together."""

    prompts: list  # B lists of token ids
    responses: list  # B lists of token ids, with the end-of-text token where the policy chose it
    ended: np.ndarray  # (B,) bool: did the policy end the response, or was it cut off?
    inputs: np.ndarray  # (B, T) int64, padded on the right
    targets: np.ndarray  # (B, T − 1) int64: the token after each column, IGNORE_INDEX where none was chosen
    mask: np.ndarray  # (B, T − 1) bool: was the token after this column chosen by the policy?
    log_probs: np.ndarray | None = None  # (B, T − 1) float32, of the chosen tokens when they were chosen, else 0

    @property
    def last(self):
        """(B,) int64: the column of each row whose choice was the response's last token."""
        return np.array([len(p) + len(r) - 2 for p, r in zip(self.prompts, self.responses, strict=True)])

    @property
    def rows(self):
        """B lists of token ids: prompt and response."""
        return [p + r for p, r in zip(self.prompts, self.responses, strict=True)]

    @property
    def lengths(self):
        """(B,) int64: tokens of each response, its end included."""
        return self.mask.sum(axis=1)

    def texts(self, tokenizer):
        """The responses as B texts, without the end-of-text token."""
        cut = [r[:-1] if e else r for r, e in zip(self.responses, self.ended, strict=True)]
        return [tokenizer.decode(response).strip() for response in cut]


def to_rollouts(prompts, responses, ended, log_probs=None):
    """B prompts and responses (lists of ids) on the grid.  log_probs: B lists as long as the responses, or None."""
    inputs = pad_right([p + r for p, r in zip(prompts, responses, strict=True)], PAD)  # (B, T)
    B, T = inputs.shape
    mask = np.zeros((B, T - 1), bool)  # (B, T − 1)
    recorded = np.zeros((B, T - 1), np.float32)  # (B, T − 1)
    for b, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        chosen = slice(len(prompt) - 1, len(prompt) - 1 + len(response))  # the seam is the first of them
        mask[b, chosen] = True
        if log_probs is not None:
            recorded[b, chosen] = log_probs[b]
    targets = np.where(mask, inputs[:, 1:], IGNORE_INDEX)  # (B, T − 1)
    recorded = None if log_probs is None else recorded
    return Rollouts(prompts, responses, np.asarray(ended), inputs, targets, mask, recorded)


# ── sampling ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Recorder:
    """Remembers the logits of every step of chapter 8's `generate`, which shows them where it is given as `observe`.

    At step t the rows still being written are those whose response has more than t tokens, in their order.
    """

    def __init__(self):
        self.steps = []  # a (rows, V) array a step

    def __call__(self, logits):
        self.steps.append(logits)

    def log_probs(self, responses):
        """The log-probability of each token of each response, as B lists."""
        found = [[] for _ in responses]
        for t, logits in enumerate(self.steps):
            rows = [b for b, response in enumerate(responses) if len(response) > t]
            chosen = np.array([responses[b][t] for b in rows])  # (rows,)
            logits = logits.astype(np.float64)  # (rows, V)
            top = logits.max(axis=1)  # (rows,)
            total = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))  # (rows,)
            for b, value in zip(rows, logits[np.arange(len(rows)), chosen] - total, strict=True):
                found[b].append(value)
        return found


def roll_out(policy, tokenizer, tasks, max_new_tokens, generator, temperature=1.0, record=True):
    """One response a task, drawn with the KV cache, with the log-probabilities at the time of drawing -> Rollouts.

    Temperature 1 draws from the policy itself, which is what its gradient assumes; the log-probabilities are the
    policy's own at any temperature, and left out where record is False.  Raises ValueError where a prompt leaves no
    room in the context.
    """
    prompts = [tokenizer.encode(format_prompt(task.instruction, task.input)) for task in tasks]
    room = policy.config.context - max(map(len, prompts))
    if room < 1:
        raise ValueError(
            f"a prompt of {max(map(len, prompts))} tokens leaves no room for a response in a context of "
            f"{policy.config.context}; give shorter instructions or a model with a longer context."
        )
    allowed, end = min(max_new_tokens, room), tokenizer.eos_id
    recorder = Recorder() if record else None
    said = generate(policy, prompts, allowed, temperature=temperature, stop_ids=(end,), generator=generator, observe=recorder)
    ended = [len(response) < allowed for response in said]  # generate leaves the end-of-text token out
    responses = [response + [end] if e else response for response, e in zip(said, ended, strict=True)]
    return to_rollouts(prompts, responses, ended, recorder.log_probs(responses) if record else None)


def roll_out_many(policy, tokenizer, tasks, max_new_tokens, generator, temperature=1.0, batch_size=256):
    """Like roll_out, for any number of tasks, those with prompts of like length together.  Returns the Rollouts of all.

    The recorded log-probabilities are left out.
    """
    rows = [tokenizer.encode(format_prompt(task.instruction, task.input)) for task in tasks]
    prompts, responses, ended = rows, [None] * len(rows), [None] * len(rows)
    for places, _ in by_length(rows, batch_size, PAD):
        part = roll_out(policy, tokenizer, [tasks[i] for i in places], max_new_tokens, generator, temperature, False)
        for i, response, end in zip(places, part.responses, part.ended, strict=True):
            responses[i], ended[i] = response, bool(end)
    return to_rollouts(prompts, responses, ended)


# ── log-probabilities ────────────────────────────────────────────────────────────────────────────────────────────────


def chosen_log_probs(logits, targets):
    """log softmax(logits)[target] where there is a target, 0 elsewhere.  logits: (B, T, V); targets: (B, T) -> (B, T).

    It is chapter 7's cross-entropy with the sign turned, one value a position instead of their mean.
    """
    B, T, V = logits.shape
    flat = logits.view(-1, V), targets.view(-1)  # (B·T, V), (B·T,)
    return -F.cross_entropy(*flat, ignore_index=IGNORE_INDEX, reduction="none").view(B, T)


def log_probs_of(model, rollouts, batch_size=64):
    """What the model gives to the tokens that the rollouts chose, without gradients: (B, T − 1) float32."""
    found = np.zeros(rollouts.mask.shape, np.float32)  # (B, T − 1)
    was_training = model.training
    model.eval()
    with mg.no_grad():
        for places, inputs in by_length(rollouts.rows, batch_size, PAD):
            targets = rollouts.targets[places, : inputs.shape[1] - 1]  # (b, t)
            logits = model(mg.as_tensor(inputs[:, :-1].copy()))  # (b, t, V)
            found[places, : targets.shape[1]] = chosen_log_probs(logits, mg.as_tensor(targets.copy())).numpy(force=True)
    model.train(was_training)
    return found


def sequence_kl(log_probs, reference_log_probs, mask):
    """An unbiased estimate of KL(policy ‖ reference) for each prompt, in nats: the sum over the response's tokens of
    log π − log π_ref, for a response drawn from π.  Three (B, T) arrays -> (B,).  One row can be negative; the mean
    over many is not."""
    return ((log_probs - reference_log_probs) * mask).sum(axis=1)  # (B,)

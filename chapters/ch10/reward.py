"""Chapter 10, the reward model: people compare two responses, and a network learns to score one.

    python -m chapters.ch10.reward                     # comparisons by a simulated labeller; into runs/reward
    python -m chapters.ch10.reward --data pairs.json   # your own chosen and rejected responses

Nobody says how good a response is, only which of two is better. The Bradley-Terry model turns that into a probability,

    P(a preferred to b) = σ(r_a − r_b),     so the loss of one comparison is −log σ(r_chosen − r_rejected).

The SFT model's body gets a head with one output, read at the last token of the response, and chapter 7's loop does the rest.
The labeller here is a simulation with a stated noise (chapters/world/judge.py), so the best possible accuracy is known.

Look at the accuracy beside that ceiling, at figures/calibration.png, and at figures/tokens.png, the reward at every token.

Sources: section 10.4; Ouyang et al. 2022 (arXiv:2203.02155), equation 1 (the loss) and section 3.5 (all comparisons of a
prompt in one batch; mean reward 0 on the demonstrations).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch06_gpt import GPT, GPTConfig, load_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.preference_figures import draw_calibration, draw_token_scores
from chapters.ch10.rollout import PAD, roll_out_many
from chapters.ch10.sft import format_prompt
from chapters.support.batches import RaggedBatches, by_length, pad_right
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.readers import read_pairs
from chapters.support.run_folder import Run, load_parameters
from chapters.world import Instruction, World
from chapters.world.facts import SeededRandom
from chapters.world.judge import Judge, ceiling
from chapters.world.requests import demonstrations, mixed_tasks

# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ScalarModel(nn.Module):
    """A GPT with a head that gives one number at every position: idx (B, T) -> (B, T).  Changes `gpt` in place.

    A reward model is read at the last token of the response; PPO's value model is read everywhere.
    """

    def __init__(self, gpt: GPT, generator: mg.Generator | None = None):
        super().__init__()
        self.gpt = gpt
        self.gpt.lm_head = nn.Identity()
        self.head = nn.Linear(gpt.config.d_model, 1)
        nn.init.normal_(self.head.weight, 0.0, 1 / np.sqrt(gpt.config.d_model + 1), generator=generator)
        nn.init.zeros_(self.head.bias)

    @property
    def config(self) -> GPTConfig:
        return self.gpt.config

    def forward(self, idx: mg.Tensor) -> mg.Tensor:
        return self.head(self.gpt(idx))[:, :, 0]  # (B, T)


def save_scalar(run: Run, model: ScalarModel) -> None:
    """Write the model into the run's folder as reward.safetensors."""
    metadata = {"config": json.dumps(asdict(model.config))}
    mg.serialization.save(run / "reward.safetensors", dict(model.named_parameters()), metadata=metadata)


def load_scalar(folder: str | Path) -> ScalarModel:
    """Load the ScalarModel that save_scalar wrote into a run's folder."""
    path = Path(folder) / "reward.safetensors"
    if not path.exists():
        raise FileNotFoundError(
            f"there is no reward model in {folder}: python -m chapters leaves one in runs/main/reward, and "
            "python -m chapters.ch10.reward trains one"
        )
    arrays, metadata = mg.serialization.load(path)
    model = ScalarModel(GPT(GPTConfig(**json.loads(metadata["config"]))))
    load_parameters(model, arrays, path)
    return model.eval()


def reward_loss(
    model: ScalarModel, inputs: mg.Tensor, ends: mg.Tensor, chosen: mg.Tensor, rejected: mg.Tensor, weights: mg.Tensor
) -> mg.Tensor:
    """−Σ weight · log σ(r_chosen − r_rejected), a scalar.

    Args:
        inputs: (N, T) token ids.
        ends: (N,), the column of each row's last token.
        chosen, rejected: (P,) row numbers of the two responses of each comparison.
        weights: (P,), with sum 1.
    """
    rewards = model(inputs)[np.arange(inputs.shape[0]), ends]  # (N,)
    return -(F.logsigmoid(rewards[chosen] - rewards[rejected]) * weights).sum()


def reward_scores(model: ScalarModel, rows: Sequence[Sequence[int]], batch_size: int = 64) -> np.ndarray:
    """The reward of each row of token ids, read at its last token: (N,) float32."""
    scores = np.zeros(len(rows), np.float32)  # (N,)
    was_training = model.training
    model.eval()
    with mg.no_grad():
        for places, inputs in by_length(rows, batch_size, PAD):
            ends = np.array([len(rows[i]) - 1 for i in places])  # (b,)
            scores[places] = model(mg.as_tensor(inputs)).numpy(force=True)[np.arange(len(places)), ends]
    model.train(was_training)
    return scores


def normalise(model: ScalarModel, rows: Sequence[Sequence[int]]) -> float:
    """Shift the head's bias so that the mean reward of these rows is 0; returns the shift.

    The loss sees only differences, so training leaves the zero of the reward undetermined.
    """
    shift = float(reward_scores(model, rows).mean())
    model.head.bias.array -= np.float32(shift)
    return shift


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Ranking:
    """K responses to one prompt, and a labeller's comparisons of them."""

    rows: list[list[int]]  # token ids of the prompt and each response
    pairs: list[tuple[int, int]]  # (number of the preferred response, number of the other)
    probabilities: list[float]  # a simulated labeller's probability of each preference; [] for a person's


class Labeller(Protocol):
    """Compares two responses to a task: the simulated judge, or chapter 10's constitutional critic."""

    def probability(self, task: Instruction, a: str, b: str) -> float: ...


def rank_responses(
    judge: Labeller,
    task: Instruction,
    prompt: list[int],
    responses: Sequence[list[int]],
    texts: Sequence[str],
    rng: SeededRandom,
) -> Ranking | None:
    """Let the simulated labeller compare every two different responses; None if all responses are the same.

    prompt, responses: token ids; texts: the responses as the labeller reads them.
    """
    different = [i for i in range(len(texts)) if texts[i] not in texts[:i]]
    pairs, probabilities = [], []
    for a, b in combinations(range(len(different)), 2):
        p = judge.probability(task, texts[different[a]], texts[different[b]])
        first = rng.random() < p
        pairs.append((a, b) if first else (b, a))
        probabilities.append(p if first else 1 - p)
    return Ranking([prompt + responses[i] for i in different], pairs, probabilities) if pairs else None


def collect_rankings(
    policy: GPT, tokenizer: Any, judge: Judge, tasks: Sequence[Instruction], k: int, seed: int, max_new_tokens: int = 48
) -> list[Ranking]:
    """Sample k responses of the policy to each task, and let the simulated labeller compare them."""
    if k < 2:
        raise ValueError(f"comparisons: expected k >= 2 responses to a prompt, got {k}")
    repeated = [task for task in tasks for _ in range(k)]
    rollouts = roll_out_many(policy, tokenizer, repeated, max_new_tokens, mg.Generator(seed))
    texts, rng, rankings = rollouts.texts(tokenizer), SeededRandom(f"comparisons/{seed}"), []
    for i, task in enumerate(tasks):
        part = slice(i * k, (i + 1) * k)
        rankings.append(rank_responses(judge, task, rollouts.prompts[i * k], rollouts.responses[part], texts[part], rng))
    return [ranking for ranking in rankings if ranking is not None]


def from_pairs(pairs: Sequence[Any], tokenizer: Any, context: int) -> tuple[list[Ranking], int]:
    """Turn (Instruction, chosen, rejected) triples into rankings; returns them and the number too long for the context.

    Raises:
        ValueError: if every pair is too long.
    """
    rankings = []
    for task, *responses in pairs:
        prompt = tokenizer.encode(format_prompt(task.instruction, task.input))
        rows = [prompt + tokenizer.encode(response) + [tokenizer.eos_id] for response in responses]
        rankings.append(Ranking(rows, [(0, 1)], []))
    fitting = [ranking for ranking in rankings if max(map(len, ranking.rows)) <= context]
    if not fitting:
        shortest = min(max(map(len, ranking.rows)) for ranking in rankings)
        raise ValueError(
            f"pairs: all {len(rankings)} pairs are longer than the model's context of {context} tokens, the shortest has "
            f"{shortest}; give shorter responses or a model with a longer context"
        )
    return fitting, len(rankings) - len(fitting)


class ComparisonBatches:
    """Batches for reward_loss: batch(step) -> inputs, ends, chosen, rejected, weights.

    All comparisons of a prompt are in one batch and share its weight. So the model reads each of the K responses once, not K
    − 1 times, and a prompt with many comparisons weighs no more than others (Ouyang et al. 2022, section 3.5).
    """

    def __init__(self, rankings: Sequence[Ranking], batch_size: int, seed: int = 0):
        if not rankings:
            raise ValueError("comparisons: expected at least one prompt with two different responses, got none")
        self.rankings = rankings
        longest = [max(ranking.rows, key=len) for ranking in rankings]
        self.order = RaggedBatches(longest, np.arange(len(rankings)), batch_size, PAD, seed)

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        rows: list[list[int]] = []
        chosen, rejected, weights = [], [], []
        _, places = self.order.batch(step)  # (B,)  prompts of similar length
        for ranking in (self.rankings[i] for i in places):
            chosen += [len(rows) + better for better, _ in ranking.pairs]
            rejected += [len(rows) + worse for _, worse in ranking.pairs]
            weights += [1 / len(ranking.pairs) / len(places)] * len(ranking.pairs)
            rows += ranking.rows
        ends = np.array([len(row) - 1 for row in rows])  # (N,)
        return pad_right(rows, PAD), ends, np.array(chosen), np.array(rejected), np.array(weights, np.float32)

    @property
    def signature(self) -> str:
        return f"{self.order.signature}, {sum(len(r.pairs) for r in self.rankings)} comparisons"


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def gaps_of(model: ScalarModel, rankings: Sequence[Ranking]) -> np.ndarray:
    """r_preferred − r_other of every comparison: (P,)."""
    rewards = reward_scores(model, [row for ranking in rankings for row in ranking.rows])  # (N,)
    gaps, first = [], 0
    for ranking in rankings:
        gaps += [rewards[first + better] - rewards[first + worse] for better, worse in ranking.pairs]
        first += len(ranking.rows)
    return np.array(gaps)


def accuracy(gaps: np.ndarray) -> float:
    """The share of comparisons in which the preferred response has the higher reward; a tie counts half."""
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def calibration(gaps: np.ndarray, bins: int = 10) -> tuple[list[tuple[float, float, int]], float]:
    """Compare the predicted probability of preference with the observed share, each comparison seen from both sides.

    Returns:
        (mean prediction, observed share, count) of each bin that is not empty, and the expected calibration error: the mean gap
        between the two, weighted by count.

    Source: Guo et al. 2017 (arXiv:1706.04599), equation 3.
    """
    predicted = 1 / (1 + np.exp(-np.concatenate([gaps, -gaps]).astype(np.float64)))  # (2P,)
    preferred = np.repeat([1.0, 0.0], len(gaps))  # (2P,)
    which = np.minimum((predicted * bins).astype(int), bins - 1)  # (2P,)
    table = [
        (float(predicted[which == b].mean()), float(preferred[which == b].mean()), int((which == b).sum()))
        for b in range(bins)
        if (which == b).any()
    ]
    error = sum(n * abs(p - share) for p, share, n in table) / len(predicted)
    return table, float(error)


def measure(model: ScalarModel, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Accuracy and calibration; for a simulated labeller also the noise ceiling and the share of it that is reached."""
    gaps = gaps_of(model, rankings)
    table, error = calibration(gaps)
    result: dict[str, Any] = {
        "comparisons": len(gaps),
        "accuracy": accuracy(gaps),
        "calibration error": error,
        "calibration": table,
    }
    probabilities = np.array([p for ranking in rankings for p in ranking.probabilities])  # (P,)
    if len(probabilities) == len(gaps):
        # The mean accuracy if the labeller answered the same comparisons again and again: this removes his chance errors.
        right = np.where(gaps > 0, probabilities, np.where(gaps < 0, 1 - probabilities, 0.5))  # (P,)
        result |= {"ceiling": ceiling(probabilities), "expected accuracy": float(right.mean())}
        result["share of the ceiling"] = result["expected accuracy"] / result["ceiling"]
    return result


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def train_reward(
    gpt: GPT, rankings: Sequence[Ranking], demonstrated: Sequence[Sequence[int]], config: TrainConfig, run: Run
) -> ScalarModel:
    """Give gpt a scalar head (in place), train it on the rankings, normalise it on the demonstrated rows, and save it."""
    model = ScalarModel(gpt, mg.Generator(config.seed))
    train(model, ComparisonBatches(rankings, config.batch_size, config.seed), config, run, loss_fn=reward_loss)
    normalise(model, demonstrated)
    save_scalar(run, model)
    return model


def demonstrated_rows(world: World, tokenizer: Any, n: int, context: int, seed: int) -> list[list[int]]:
    """Prompt and response of up to n demonstrations that fit into the context, as token ids."""
    pairs = demonstrations(world, mixed_tasks(world, "train", n, seed + 1), seed + 1)
    rows = [
        tokenizer.encode(format_prompt(task.instruction, task.input)) + tokenizer.encode(response) + [tokenizer.eos_id]
        for task, response in pairs
    ]
    return [row for row in rows if len(row) <= context]


@dataclass
class Settings(OnDevice):
    """Train a reward model on comparisons; measure accuracy and calibration, and draw the reward at every token."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model
    data: Path | None = None  # JSON file of chosen and rejected responses, in place of the simulation
    run: Path = Path("runs/reward")  # folder for all results
    prompts: int = 5000  # instructions to compare responses to
    k: int = 4  # responses to each instruction
    held_out: int = 1200  # test instructions, about people and things outside the training set
    noise: float = 0.5  # labeller noise: the score difference worth odds of e to 1 (0 = always picks the better response)
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=625, batch_size=16, lr=1e-3, min_lr=5e-5, warmup_steps=20, weight_decay=0.0, beta2=0.99
        )
    )
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    quick: bool = False  # fewer comparisons and steps


QUICK = {"prompts": 200, "held_out": 64, "training": TrainConfig(steps=30, batch_size=8, lr=5e-4, warmup_steps=5)}


def main(settings: Settings) -> None:
    at_least_one(settings, "prompts", "held_out")
    gpt, tokenizer = load_model(settings.sft)
    world, run, config = World(settings.world), Run(settings.run), replace(settings.training, seed=settings.seed)
    context = gpt.config.context
    if settings.data:
        pairs, equal = read_pairs(settings.data)
        rankings, long = from_pairs(pairs, tokenizer, context)
        print(f"{len(rankings)} pairs; left out: {equal} of equal responses, {long} longer than {context} tokens")
        order = np.random.default_rng(settings.seed).permutation(len(rankings))  # (N,)
        held_out, rankings = ([rankings[i] for i in part] for part in np.split(order, [max(1, len(order) // 10)]))
        demonstrated = [ranking.rows[0] for ranking in rankings]
    else:
        judge = Judge(world, settings.noise)
        tasks = mixed_tasks(world, "train", settings.prompts, settings.seed)
        rankings = collect_rankings(gpt, tokenizer, judge, tasks, settings.k, settings.seed)
        tests = mixed_tasks(world, "test", settings.held_out, settings.seed + 1)
        held_out = collect_rankings(gpt, tokenizer, judge, tests, settings.k, settings.seed + 1)
        demonstrated = demonstrated_rows(world, tokenizer, 300, context, settings.seed)
    model = train_reward(gpt, rankings, demonstrated, config, run)

    scores = measure(model, held_out)
    (run / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(f"held out: {scores['accuracy']:.2%} of {scores['comparisons']} comparisons right, ", end="")
    if "ceiling" in scores:
        print(
            f"{scores['expected accuracy']:.2%} expected; the simulated labeller's noise allows at most "
            f"{scores['ceiling']:.2%}, so this is {scores['share of the ceiling']:.1%} of the ceiling",
            end=", ",
        )
    print(f"calibration error {scores['calibration error']:.3f}")
    draw_calibration(run / "figures" / "calibration.png", scores)
    print(f"figures: {show_token_scores(model, tokenizer, held_out, run).parent}")


def show_token_scores(model: ScalarModel, tokenizer: Any, rankings: Sequence[Ranking], run: Run, n: int = 3) -> Path:
    """Draw the reward at every token of n pairs of responses; returns the figure's path."""
    scored, titles = [], []
    for ranking in sorted(rankings, key=lambda ranking: len(ranking.rows[0]))[: 40 * n : 40]:
        row = ranking.rows[0]
        prompt = tokenizer.decode(row[: response_start(row, tokenizer)])
        instruction = prompt.split("### Instruction:\n")[-1].split("### Response:")[0].replace("### Input:", "")
        titles.append(" ".join(instruction.split()))
        for number in ranking.pairs[0]:
            row = ranking.rows[number]
            with mg.no_grad():
                rewards = model(mg.as_tensor(np.array([row]))).numpy(force=True)[0]  # (T,)
            start = response_start(row, tokenizer)
            scored.append((tokenizer.pieces(row[start:]), rewards[start:]))
    return draw_token_scores(run / "figures" / "tokens.png", scored, titles)


def response_start(row: Sequence[int], tokenizer: Any) -> int:
    """The column of the response's first token, after the template's last line."""
    mark = "### Response:\n"
    for start in range(len(row)):
        if tokenizer.decode(row[:start]).endswith(mark):
            return start
    return 0


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

"""Chapter 10, the reward model: learn a number for each response from comparisons of two responses.

    python -m chapters.ch10.reward                     # comparisons by a simulated labeller; writes into runs/reward
    python -m chapters.ch10.reward --data pairs.json   # your own chosen and rejected responses

People find it hard to say how good a response is, and easy to say which of two is better. Bradley and Terry's model (1952)
connects the two: a labeller prefers the first response with probability σ(r_first − r_second). A network that outputs rewards
can therefore learn from comparisons by maximum likelihood; `preference_loss` is the whole idea. The network is the SFT model
with a head of one output, read at the response's last token, and chapter 7's loop trains it.

Look at the accuracy beside its ceiling: the labeller is a simulation with known noise (chapters/world/judge.py), so we know
the best accuracy that any model could reach. Then look at the accuracy of a bag of words (ch10/bag_of_words): it learned from
the same comparisons, and it cannot read. Source: section 10.4; Ouyang et al. 2022 (arXiv:2203.02155), equation 1.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch06_gpt import GPT, GPTConfig, check_layout, config_from, layout, load_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.bag_of_words import BagOfWords, Pair, baseline_text, fit, gain_by_choosing
from chapters.ch10.comparisons import Ranking, collect_rankings, encode_pair, from_pairs, sample_rankings
from chapters.ch10.preference_figures import draw_calibration, draw_token_scores
from chapters.ch10.rollout import PAD, Rollouts
from chapters.support.batches import RaggedBatches, by_length, held_out_count, pad_right, random_split
from chapters.support.command import InShards, at_least_one, command
from chapters.support.readers import read_pairs
from chapters.support.run_folder import Run, load_parameters, maker_of
from chapters.support.shared_training import Shard, shards_of
from chapters.world import Instruction, World
from chapters.world.judge import Judge, ceiling, score_of
from chapters.world.requests import demonstrations, mixed_tasks
from minigrad import distributed


def preference_loss(chosen: mg.Tensor, rejected: mg.Tensor) -> mg.Tensor:
    """−log σ(r_chosen − r_rejected) for each of P comparisons, from their rewards: twice (P,) -> (P,).

    >>> round(preference_loss(mg.tensor([2.0]), mg.tensor([0.0])).item(), 3)
    0.127
    """
    return -F.logsigmoid(chosen - rejected)


class ScalarModel(nn.Module):
    """A GPT with one number at every position in place of logits: idx (B, T) -> (B, T).

    A reward model uses the number at a response's last token, PPO's value model all of them. `gpt` itself loses its
    vocabulary head.
    """

    def __init__(self, gpt: GPT, generator: mg.Generator | None = None) -> None:
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


def reward_scores(model: ScalarModel, rows: Sequence[list[int]], batch_size: int = 64) -> np.ndarray:
    """The reward at the last token of each of N rows of token ids: (N,) float32."""
    was_training = model.training
    model.eval()

    def score(rows: Sequence[list[int]]) -> np.ndarray:
        rewards = np.zeros(len(rows), np.float32)  # (n,)
        for places, inputs in by_length(rows, batch_size, PAD):
            ends = np.array([len(rows[i]) - 1 for i in places])  # (b,)
            rewards[places] = model(mg.as_tensor(inputs)).numpy(force=True)[np.arange(len(places)), ends]
        return rewards

    with mg.no_grad():
        rewards = np.concatenate(distributed.current().map_shards(score, rows))  # (N,)
    model.train(was_training)
    return rewards


def normalise(model: ScalarModel, rows: Sequence[list[int]]) -> float:
    """Make the mean reward of these rows 0, because the loss ignores a constant shift of all rewards.  Returns the old mean."""
    mean = float(reward_scores(model, rows).mean())
    with mg.no_grad():
        model.head.bias.sub_(mean)
    return mean


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class ComparisonBatches:
    """Batches of rankings for `reward_loss`.  A prompt's comparisons share a batch and count as one element.

    So the model reads each response once rather than K − 1 times, and all prompts weigh the same (Ouyang et al., section 3.5).
    """

    def __init__(self, rankings: Sequence[Ranking], batch_size: int, seed: int = 0) -> None:
        if not rankings:
            raise ValueError("comparisons: expected at least one, got none; give a prompt with two different responses")
        self.rankings = rankings
        longest = [max(ranking.rows, key=len) for ranking in rankings]
        self.order = RaggedBatches(longest, range(len(rankings)), batch_size, PAD, seed)  # its targets are ranking numbers

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        return self.arrays(self.order.batch(step)[1])

    def shards(self, step: int, count: int) -> list[Shard]:
        """The batch's rankings in `count` parts; see support/shared_training."""
        return shards_of(self.order.batch(step)[1], self.arrays, count)

    def arrays(self, places: np.ndarray) -> tuple[np.ndarray, ...]:
        """The arrays of some rankings, (B,) numbers."""
        rows: list[list[int]] = []
        chosen, rejected, weights = [], [], []
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


def reward_loss(
    model: nn.Module, inputs: mg.Tensor, ends: mg.Tensor, chosen: mg.Tensor, rejected: mg.Tensor, weights: mg.Tensor
) -> mg.Tensor:
    """The mean of `preference_loss` over P comparisons of N responses, with weights (P,) that add up to 1.

    inputs: (N, T) token ids; ends: (N,) the column of each row's last token; chosen, rejected: (P,) row numbers.
    """
    rewards = model(inputs)[np.arange(inputs.shape[0]), ends]  # (N,)
    return (preference_loss(rewards[chosen], rewards[rejected]) * weights).sum()


def train_reward(gpt: GPT, rankings: list[Ranking], rows: list[list[int]], config: TrainConfig, run: Run) -> ScalarModel:
    """Turn `gpt` itself into a reward model: add the head, train all parameters, shift the mean reward of `rows` to 0, save."""
    model = ScalarModel(gpt, mg.Generator(config.seed))
    train(model, ComparisonBatches(rankings, config.batch_size, config.seed), config, run, loss_fn=reward_loss)
    normalise(model, rows)
    save_scalar(run, model)
    return model


def demonstrated_rows(world: World, tokenizer: Any, n: int, context: int, seed: int) -> list[list[int]]:
    """Prompt and response of n demonstrations as token ids, without those that exceed the context."""
    pairs = demonstrations(world, mixed_tasks(world, "train", n, seed + 1), seed + 1)
    rows = [encode_pair(task, response, tokenizer) for task, response in pairs]
    return [row for row in rows if len(row) <= context]


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
    """Share of comparisons whose preferred response has the higher reward; equal rewards count half."""
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def calibration(gaps: np.ndarray, bins: int = 10) -> tuple[list[tuple[float, float, int]], float]:
    """Does the labeller prefer a response as often as the model predicts?  Each comparison counts twice, once from each side.

    Returns (mean predicted probability, share preferred, count) for every bin that is not empty, and the expected calibration
    error: the mean distance between prediction and share, weighted by count (Guo et al. 2017, arXiv:1706.04599, equation 3).
    """
    predicted = 1 / (1 + np.exp(-np.concatenate([gaps, -gaps]).astype(np.float64)))  # (2P,)
    preferred = np.repeat([1.0, 0.0], len(gaps))  # (2P,)
    bin_of = np.minimum((predicted * bins).astype(int), bins - 1)  # (2P,)
    members = [bin_of == b for b in range(bins) if (bin_of == b).any()]
    table = [(float(predicted[m].mean()), float(preferred[m].mean()), int(m.sum())) for m in members]
    error = sum(n * abs(p - share) for p, share, n in table) / len(predicted)
    return table, float(error)


def measure(model: ScalarModel, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """Accuracy and calibration; for a simulated labeller also the ceiling, and the expected accuracy as a share of it."""
    return measure_gaps(gaps_of(model, rankings), rankings)


def measure_gaps(gaps: np.ndarray, rankings: Sequence[Ranking]) -> dict[str, Any]:
    """`measure` for any rewards, from r_preferred − r_other of every comparison, (P,)."""
    table, error = calibration(gaps)
    result = {"comparisons": len(gaps), "accuracy": accuracy(gaps), "calibration error": error, "calibration": table}
    probabilities = np.array([p for ranking in rankings for p in ranking.probabilities])  # (P,)
    if len(probabilities) == len(gaps):
        # The expectation over the labeller's random choices varies less than the accuracy on one draw of them.
        right = np.where(gaps > 0, probabilities, np.where(gaps < 0, 1 - probabilities, 0.5))  # (P,)
        best, expected = ceiling(probabilities), float(right.mean())
        result |= {"ceiling": best, "expected accuracy": expected, "share of the ceiling": expected / best}
    return result


def compare_with_words(
    rankings: Sequence[Ranking], held_out: Sequence[Ranking], tokenizer: Any, seed: int
) -> tuple[BagOfWords, dict[str, Any]]:
    """Fit a bag of words to the comparisons that a reward model learned from, and measure it on the held-out comparisons."""
    bag = fit(text_pairs(rankings, tokenizer), seed)
    result = measure_gaps(bag.gaps([pair for pairs in text_pairs(held_out, tokenizer) for pair in pairs]), held_out)
    del result["calibration"]
    return bag, result | {"words": len(bag.vocabulary), "penalty": bag.penalty, "heaviest words": bag.heaviest(6)}


def text_pairs(rankings: Sequence[Ranking], tokenizer: Any) -> list[list[Pair]]:
    """Each ranking's comparisons as texts: (preferred response, other response)."""

    def response(row: list[int]) -> str:
        return tokenizer.decode([i for i in row if i != tokenizer.eos_id]).rsplit("### Response:\n", 1)[-1]

    texts = [[response(row) for row in ranking.rows] for ranking in rankings]
    return [[(of[a], of[b]) for a, b in ranking.pairs] for of, ranking in zip(texts, rankings, strict=True)]


def gains_by_choosing(
    model: ScalarModel, bag: BagOfWords, judge: Judge, tasks: Sequence[Instruction], rollouts: Rollouts, tokenizer: Any
) -> dict[str, float]:
    """The judge's points that the best response to each task gains over the mean response, by each of three choosers.

    rollouts: n adjacent responses to each task.  Returns {"n", "mean", "reward model", "bag of words", "judge"}.
    """
    texts, n = rollouts.texts(tokenizer), len(rollouts.rows) // len(tasks)
    judged = np.array([score_of(judge, tasks[i // n], text) for i, text in enumerate(texts)])  # (tasks · n,)
    scores = {"reward model": reward_scores(model, rollouts.rows), "bag of words": bag.rewards(texts), "judge": judged}
    tables = {name: values.reshape(-1, n) for name, values in scores.items()}  # (tasks, n) each
    gains = {name: gain_by_choosing(table, tables["judge"]) for name, table in tables.items()}
    return {"n": n, "mean": float(judged.mean())} | gains


def show_token_scores(model: ScalarModel, tokenizer: Any, rankings: Sequence[Ranking], run: Run, n: int = 3) -> Path:
    """Draw where the reward rises and falls, token by token, in n pairs of responses.  Returns the figure's path."""
    responses, titles = [], []
    for ranking in sorted(rankings, key=lambda ranking: len(ranking.rows[0]))[: 40 * n : 40]:
        prompt = tokenizer.decode(ranking.rows[0][: response_start(ranking.rows[0], tokenizer)])
        request = prompt.split("### Instruction:\n")[-1].split("### Response:")[0].replace("### Input:", "")
        titles.append(" ".join(request.split()))
        for number in ranking.pairs[0]:
            row, start = ranking.rows[number], response_start(ranking.rows[number], tokenizer)
            with mg.no_grad():
                rewards = model(mg.as_tensor(np.array([row]))).numpy(force=True)[0]  # (T,)
            responses.append((tokenizer.pieces(row[start:]), rewards[start:]))
    return draw_token_scores(run / "figures" / "tokens.svg", responses, titles)


def response_start(row: list[int], tokenizer: Any) -> int:
    """The position in a row of token ids after the last "### Response:" line, where the response begins."""
    ends = (start for start in range(len(row), 0, -1) if tokenizer.decode(row[:start]).endswith("### Response:\n"))
    return next(ends, 0)


# ── files and the command ────────────────────────────────────────────────────────────────────────────────────────────


def save_scalar(run: Run, model: ScalarModel) -> None:
    """Write the model into the run's folder as reward.safetensors."""
    metadata = {"config": json.dumps(asdict(model.config))}
    mg.serialization.save(run / "reward.safetensors", dict(model.named_parameters()), metadata=metadata)


def load_scalar(folder: str | Path) -> ScalarModel:
    """Load the model, in eval mode, that `save_scalar` wrote into a run folder.  Raises FileNotFoundError, CheckpointError."""
    path = Path(folder) / "reward.safetensors"
    if not path.exists():
        maker = maker_of(folder) or f"python -m chapters.ch10.reward --run {folder} --sft and the folder of your SFT model"
        raise FileNotFoundError(f"there is no reward model in {folder}; run {maker}")
    arrays, metadata = mg.serialization.load(path)
    config = config_from(metadata, path)
    body = ((f"gpt.{name}", shape) for name, shape in layout(replace(config, tied=True)))  # without the vocabulary head
    check_layout(arrays, chain(body, [("head.weight", (1, config.d_model)), ("head.bias", (1,))]), path)
    model = ScalarModel(GPT(config))
    load_parameters(model, arrays, path)
    return model.eval()


@dataclass
class Settings(InShards):
    """Train a reward model on comparisons; show its accuracy beside the ceiling, its calibration, its reward at each token."""

    sft: Path = Path("runs/main/assistant")  # run folder of the SFT model, from the main job or ch10.demonstrations
    data: Path | None = None  # JSON file of chosen and rejected responses, in place of the simulated labeller
    run: Path = Path("runs/reward")  # run folder to write
    prompts: int = 5000  # instructions whose responses are compared
    k: int = 4  # responses to each instruction
    held_out: int = 1200  # test instructions, about entities that training never mentions
    noise: float = 0.5  # labeller noise: score difference at which the odds are e to 1 (0 = always picks the better response)
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=625, batch_size=16, lr=1e-3, min_lr=5e-5, warmup_steps=20, weight_decay=0.0, beta2=0.99
        )
    )
    world: int = 0  # seed of the little world that the tasks are about
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
        print(f"{len(rankings)} pairs; left out: {equal} with equal responses, {long} longer than {context} tokens")
        rankings, held_out = random_split(rankings, held_out_count(rankings, settings.data), settings.seed)
        rows = [ranking.rows[0] for ranking in rankings]
    else:
        judge = Judge(world, settings.noise)
        tasks = mixed_tasks(world, "train", settings.prompts, settings.seed)
        rankings = collect_rankings(gpt, tokenizer, judge, tasks, settings.k, settings.seed)
        tests = mixed_tasks(world, "test", settings.held_out, settings.seed + 1)
        rollouts, held_out = sample_rankings(gpt, tokenizer, judge, tests, settings.k, settings.seed + 1)
        rows = demonstrated_rows(world, tokenizer, 300, context, settings.seed)
    model = train_reward(gpt, rankings, rows, config, run)

    result = measure(model, held_out)
    bag, result["bag of words"] = compare_with_words(rankings, held_out, tokenizer, settings.seed)
    if not settings.data:
        result["best of n"] = gains_by_choosing(model, bag, judge, tests, rollouts, tokenizer)
    run.write_scores(result)
    print(f"held out: {result['accuracy']:.2%} of {result['comparisons']} comparisons right", end="; ")
    if "ceiling" in result:
        print(f"{result['expected accuracy']:.2%} expected, {result['share of the ceiling']:.1%} of the ceiling", end=" ")
        print(f"that the simulated labeller's noise sets at {result['ceiling']:.2%}", end="; ")
    print(f"calibration error {result['calibration error']:.3f}\n{baseline_text(result)}")
    draw_calibration(run / "figures" / "calibration.svg", result)
    print(f"figures: {show_token_scores(model, tokenizer, held_out, run).parent}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

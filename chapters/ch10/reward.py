"""Chapter 10, the reward model: humans compare, they do not author; a network learns to say what they would prefer.

    python -m chapters.ch10.reward                     # comparisons by a simulated labeller; into runs/reward
    python -m chapters.ch10.reward --data pairs.json   # your own chosen and rejected responses

What this file teaches: a comparison becomes a scalar. The body of the SFT model gets a head with one output, read at
the response's last token, and chapter 7's loop trains it on −log σ(r_chosen − r_rejected): nobody ever says how good a
response is, only which of two is better. Because the labeller here is a simulation with a stated noise
(`chapters.world.judge`), the best accuracy that anybody could reach is known.
Sources: section 10.4; the loss, the K responses a prompt in one batch, and the mean of zero on the demonstrations are
equation 1 and section 3.5 of Ouyang et al. 2022 (arXiv:2203.02155).
"""

import json
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from pathlib import Path

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
from chapters.world import World
from chapters.world.facts import SeededRandom
from chapters.world.judge import Judge, ceiling
from chapters.world.requests import demonstrations, mixed_tasks

# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


class ScalarModel(nn.Module):
    """A GPT whose vocabulary head is replaced by one that gives a number at every position: idx (B, T) -> (B, T).

    As a reward model it is read at a response's last token; PPO's value model reads it everywhere. The given gpt is
    changed in place.
    """

    def __init__(self, gpt, generator=None):
        super().__init__()
        self.gpt = gpt
        self.gpt.lm_head = nn.Identity()
        self.head = nn.Linear(gpt.config.d_model, 1)
        nn.init.normal_(self.head.weight, 0.0, 1 / np.sqrt(gpt.config.d_model + 1), generator=generator)
        nn.init.zeros_(self.head.bias)

    @property
    def config(self):
        return self.gpt.config

    def forward(self, idx):
        return self.head(self.gpt(idx))[:, :, 0]  # (B, T)


def save_scalar(run, model):
    """Write the model into the run's folder as reward.safetensors."""
    metadata = {"config": json.dumps(asdict(model.config))}
    mg.serialization.save(run / "reward.safetensors", dict(model.named_parameters()), metadata=metadata)


def load_scalar(folder):
    """The ScalarModel that save_scalar left in a run's folder."""
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


def reward_loss(model, inputs, ends, chosen, rejected, weights):
    """−Σ weight · log σ(r_chosen − r_rejected).

    inputs: (N, T) ids; ends: (N,) the column of each row's last token; chosen, rejected: (P,) row numbers;
    weights: (P,), which add up to 1.
    """
    rewards = model(inputs)[np.arange(inputs.shape[0]), ends]  # (N,)
    return -(F.logsigmoid(rewards[chosen] - rewards[rejected]) * weights).sum()


def reward_scores(model, rows, batch_size=64):
    """The reward of each row, read at its last token: lists of ids -> (N,) float32."""
    found = np.zeros(len(rows), np.float32)  # (N,)
    was_training = model.training
    model.eval()
    with mg.no_grad():
        for places, inputs in by_length(rows, batch_size, PAD):
            ends = np.array([len(rows[i]) - 1 for i in places])  # (b,)
            found[places] = model(mg.as_tensor(inputs)).numpy(force=True)[np.arange(len(places)), ends]
    model.train(was_training)
    return found


def normalise(model, rows):
    """Shift the head's bias so that the mean reward of these rows, the demonstrations, is 0.  Returns the shift.

    The loss sees only differences, so that a reward has no zero of its own.
    """
    shift = float(reward_scores(model, rows).mean())
    model.head.bias.array -= np.float32(shift)
    return shift


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Ranking:
    """K responses to one prompt, and the comparisons that a labeller made among them."""

    rows: list  # K lists of token ids, each the prompt and a response
    pairs: list  # [(number of the response preferred, number of the other)]
    probabilities: list  # of the labeller's preferring the first, where it is a simulation and they are known


def rank_responses(judge, task, prompt, responses, texts, rng):
    """Have the simulated labeller compare every two different responses to a task; None where all are the same.

    prompt, responses: token ids; texts: what the labeller reads.
    """
    kept = [i for i in range(len(texts)) if texts[i] not in texts[:i]]
    pairs, probabilities = [], []
    for a, b in combinations(range(len(kept)), 2):
        p = judge.probability(task, texts[kept[a]], texts[kept[b]])
        first = rng.random() < p
        pairs.append((a, b) if first else (b, a))
        probabilities.append(p if first else 1 - p)
    return Ranking([prompt + responses[i] for i in kept], pairs, probabilities) if pairs else None


def collect_rankings(policy, tokenizer, judge, tasks, k, seed, max_new_tokens=48):
    """k responses of the policy to each task, compared by the simulated labeller -> [Ranking]."""
    if k < 2:
        raise ValueError(f"a comparison needs at least 2 responses to a prompt, got k={k}.")
    repeated = [task for task in tasks for _ in range(k)]
    rollouts = roll_out_many(policy, tokenizer, repeated, max_new_tokens, mg.Generator(seed))
    texts, rng, rankings = rollouts.texts(tokenizer), SeededRandom(f"comparisons/{seed}"), []
    for i, task in enumerate(tasks):
        mine = slice(i * k, (i + 1) * k)
        rankings.append(rank_responses(judge, task, rollouts.prompts[i * k], rollouts.responses[mine], texts[mine], rng))
    return [ranking for ranking in rankings if ranking is not None]


def from_pairs(pairs, tokenizer, context):
    """[(Instruction, chosen, rejected)] -> ([Ranking] of two responses each, how many were too long for the context).

    Raises ValueError where none is left.
    """
    rankings = []
    for task, *responses in pairs:
        prompt = tokenizer.encode(format_prompt(task.instruction, task.input))
        rows = [prompt + tokenizer.encode(response) + [tokenizer.eos_id] for response in responses]
        rankings.append(Ranking(rows, [(0, 1)], []))
    kept = [ranking for ranking in rankings if max(map(len, ranking.rows)) <= context]
    if not kept:
        shortest = min(max(map(len, ranking.rows)) for ranking in rankings)
        raise ValueError(
            f"all {len(rankings)} pairs are longer than the model's context of {context} tokens, the shortest has "
            f"{shortest}; give shorter responses or a model with a longer context."
        )
    return kept, len(rankings) - len(kept)


class ComparisonBatches:
    """Rankings as chapter 7's batches: batch(step) -> inputs, ends, chosen, rejected, weights, for reward_loss.

    All comparisons of a prompt are in one batch, as one element: each of its K responses is read once and not K − 1
    times, and a prompt with many comparisons weighs no more than one with few (Ouyang et al. 2022, section 3.5).
    """

    def __init__(self, rankings, batch_size, seed=0):
        if not rankings:
            raise ValueError("there is no comparison to learn from; give at least one prompt with two responses.")
        self.rankings = rankings
        longest = [max(ranking.rows, key=len) for ranking in rankings]
        self.order = RaggedBatches(longest, np.arange(len(rankings)), batch_size, PAD, seed)

    def batch(self, step):
        rows, chosen, rejected, weights = [], [], [], []
        _, places = self.order.batch(step)  # (B,)  those of like length together
        for ranking in (self.rankings[i] for i in places):
            chosen += [len(rows) + better for better, _ in ranking.pairs]
            rejected += [len(rows) + worse for _, worse in ranking.pairs]
            weights += [1 / len(ranking.pairs) / len(places)] * len(ranking.pairs)
            rows += ranking.rows
        ends = np.array([len(row) - 1 for row in rows])  # (N,)
        return pad_right(rows, PAD), ends, np.array(chosen), np.array(rejected), np.array(weights, np.float32)

    @property
    def signature(self):
        return f"{self.order.signature}, {sum(len(r.pairs) for r in self.rankings)} comparisons"


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def gaps_of(model, rankings):
    """r_preferred − r_other of every comparison: (P,)."""
    rewards = reward_scores(model, [row for ranking in rankings for row in ranking.rows])  # (N,)
    gaps, first = [], 0
    for ranking in rankings:
        gaps += [rewards[first + better] - rewards[first + worse] for better, worse in ranking.pairs]
        first += len(ranking.rows)
    return np.array(gaps)


def accuracy(gaps):
    """Share of comparisons in which the preferred response has the higher reward; equal rewards are half right."""
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def calibration(gaps, bins=10):
    """How often is a response preferred that the model says is preferred with probability p?

    Each comparison is looked at from both its sides. Returns ([(mean p, share preferred, how many) a bin that is not
    empty], the expected calibration error: the mean distance between the two, weighted by how many).
    Guo et al. 2017 (arXiv:1706.04599), equation 3.
    """
    said = 1 / (1 + np.exp(-np.concatenate([gaps, -gaps]).astype(np.float64)))  # (2P,)
    preferred = np.repeat([1.0, 0.0], len(gaps))  # (2P,)
    which = np.minimum((said * bins).astype(int), bins - 1)  # (2P,)
    table = [
        (float(said[which == b].mean()), float(preferred[which == b].mean()), int((which == b).sum()))
        for b in range(bins)
        if (which == b).any()
    ]
    error = sum(n * abs(p - share) for p, share, n in table) / len(said)
    return table, float(error)


def measure(model, rankings):
    """Accuracy, calibration, and where the labeller is a simulation the ceiling and the share of it that is reached."""
    gaps = gaps_of(model, rankings)
    table, error = calibration(gaps)
    found = {"comparisons": len(gaps), "accuracy": accuracy(gaps), "calibration error": error, "calibration": table}
    probabilities = np.array([p for ranking in rankings for p in ranking.probabilities])  # (P,)
    if len(probabilities) == len(gaps):
        # What the accuracy would be on average, were the same comparisons answered again and again: less of chance.
        right = np.where(gaps > 0, probabilities, np.where(gaps < 0, 1 - probabilities, 0.5))  # (P,)
        found |= {"ceiling": ceiling(probabilities), "expected accuracy": float(right.mean())}
        found["share of the ceiling"] = found["expected accuracy"] / found["ceiling"]
    return found


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def train_reward(gpt, rankings, demonstrated, config, run):
    """Bolt a scalar head onto gpt (changed in place), train all of it on [Ranking] with chapter 7's loop, normalise on
    the demonstrated rows, save.  Returns the ScalarModel."""
    model = ScalarModel(gpt, mg.Generator(config.seed))
    train(model, ComparisonBatches(rankings, config.batch_size, config.seed), config, run, loss_fn=reward_loss)
    normalise(model, demonstrated)
    save_scalar(run, model)
    return model


def demonstrated_rows(world, tokenizer, n, context, seed):
    """Prompt and response of n demonstrations, as token ids."""
    pairs = demonstrations(world, mixed_tasks(world, "train", n, seed + 1), seed + 1)
    rows = [
        tokenizer.encode(format_prompt(task.instruction, task.input)) + tokenizer.encode(response) + [tokenizer.eos_id]
        for task, response in pairs
    ]
    return [row for row in rows if len(row) <= context]


@dataclass
class Settings(OnDevice):
    """Train a reward model on comparisons; show its accuracy against the ceiling, its calibration, what it reads."""

    sft: Path = Path("runs/main/assistant")  # the SFT model's run folder, from the main job or ch10/demonstrations
    data: Path | None = None  # a JSON file of chosen and rejected responses instead of the simulation
    run: Path = Path("runs/reward")  # the folder for everything
    prompts: int = 5000  # instructions whose responses are compared
    k: int = 4  # responses to each
    held_out: int = 1200  # instructions, about entities never trained on, whose comparisons measure the model
    noise: float = 0.5  # of the simulated labeller: the score that is worth odds of e to 1
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=625, batch_size=16, lr=1e-3, min_lr=5e-5, warmup_steps=20, weight_decay=0.0, beta2=0.99
        )
    )
    world: int = 0  # the seed of the world whose tasks are asked
    seed: int = 0  # of everything random
    quick: bool = False  # fewer comparisons and steps


QUICK = {"prompts": 200, "held_out": 64, "training": TrainConfig(steps=30, batch_size=8, lr=5e-4, warmup_steps=5)}


def main(settings):
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

    found = measure(model, held_out)
    (run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    print(f"held out: {found['accuracy']:.2%} of {found['comparisons']} comparisons right, ", end="")
    if "ceiling" in found:
        print(
            f"{found['expected accuracy']:.2%} expected; against the simulated labeller's noise nobody can do better "
            f"than {found['ceiling']:.2%}: {found['share of the ceiling']:.1%} of the ceiling",
            end=", ",
        )
    print(f"calibration error {found['calibration error']:.3f}")
    draw_calibration(run / "figures" / "calibration.png", found)
    print(f"figures: {show_token_scores(model, tokenizer, held_out, run).parent}")


def show_token_scores(model, tokenizer, rankings, run, n=3):
    """Draw the reward read at every token of n pairs of responses: where does it rise and fall?  Returns the path."""
    shown, titles = [], []
    for ranking in sorted(rankings, key=lambda ranking: len(ranking.rows[0]))[: 40 * n : 40]:
        row = ranking.rows[0]
        prompt = tokenizer.decode(row[: response_start(row, tokenizer)])
        asked = prompt.split("### Instruction:\n")[-1].split("### Response:")[0].replace("### Input:", "")
        titles.append(" ".join(asked.split()))
        for number in ranking.pairs[0]:
            row = ranking.rows[number]
            with mg.no_grad():
                rewards = model(mg.as_tensor(np.array([row]))).numpy(force=True)[0]  # (T,)
            start = response_start(row, tokenizer)
            shown.append((tokenizer.pieces(row[start:]), rewards[start:]))
    return draw_token_scores(run / "figures" / "tokens.png", shown, titles)


def response_start(row, tokenizer):
    """Where the response begins in a row of ids: after the template's last line."""
    mark = "### Response:\n"
    for start in range(len(row)):
        if tokenizer.decode(row[:start]).endswith(mark):
            return start
    return 0


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

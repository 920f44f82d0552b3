"""The command: its settings, and its stages one after the other."""

import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import GPT, save_model
from chapters.ch07_train import TrainConfig
from chapters.ch09.load import load
from chapters.ch10.lora import merge_lora
from chapters.ch10.reward import ScalarModel, gaps_of, reward_scores
from chapters.ch10.taste.pairs import Split, end_id, fitting, marks_turns, prompt_ids, split_by_instruction, to_ranking
from chapters.ch10.taste.reader import Choice, blind_test, label
from chapters.ch10.taste.report import (
    answers_text,
    fit_words,
    measure_answers,
    measure_preference,
    measure_rewards,
    report_text,
)
from chapters.ch10.taste.stages import adapted, best_and_worst, learn_reward, learn_taste, write_answers
from chapters.support.batches import random_split
from chapters.support.command import OnDevice, at_least, at_least_one
from chapters.support.json_files import read_object, write_result
from chapters.support.readers import ResponsePair, read_pairs
from chapters.support.run_folder import Run, stopped
from chapters.world import Instruction

REWARD: dict[str, Any] = dict(steps=108, batch_size=8, lr=1e-3, warmup_steps=5, weight_decay=0.0, beta2=0.99)
REWARD |= dict(checkpoint_every=20)
DPO: dict[str, Any] = REWARD | dict(steps=48, lr=5e-4)


@dataclass
class Settings(OnDevice):
    """Bend a large model to a taste, that of a file of pairs or your own; then choose blindly between before and after."""

    data: Path | None = None  # JSON list of objects with instruction, chosen, rejected and perhaps input and output
    model: str = "smollm2"  # smollm2, a published GPT-2, a folder of its files, or a run folder
    label: bool = False  # you label pairs of the model's own answers, in place of the file's pairs
    blind: int = 20  # instructions in the blind test; 0: no test
    run: Path = Path("runs/taste")  # run folder for all output
    prompts: int = 128  # instructions whose drafts DPO learns from
    k: int = 8  # drafts for each of them
    temperature: float = 0.7  # sampling temperature of the drafts
    max_new_tokens: int = 48  # longest answer in tokens
    labels: int = 100  # pairs that you label
    held_out: int = 220  # pairs held out for the measurements, at most a quarter
    best_of: int = 24  # held-out instructions on which the best of k drafts is measured
    context: int = 256  # longest pair in tokens; longer ones are left out
    frozen: int | None = None  # lowest blocks, which stay as they are; half of all if None
    rank: int = 8  # rank of the trained products
    beta: float = 0.1  # β of DPO: price of one nat of divergence from the original model
    reward: TrainConfig = field(default_factory=lambda: TrainConfig(**REWARD))
    dpo: TrainConfig = field(default_factory=lambda: TrainConfig(**DPO))
    seed: int = 0  # random seed
    quick: bool = False  # few drafts, short answers, few steps


FEW: dict[str, Any] = dict(steps=3, batch_size=2, checkpoint_every=1)
QUICK: dict[str, Any] = {
    "prompts": 6,
    "k": 2,
    "max_new_tokens": 8,
    "labels": 6,
    "held_out": 10,
    "best_of": 2,
    "blind": 3,
    "reward": TrainConfig(**REWARD | FEW),
    "dpo": TrainConfig(**DPO | FEW),
}
FREE = ("run", "blind", "quick", "device", "precision")  # settings that may change when the command continues


class Taste:
    """One run of the command. Every stage is computed once, and saved in the run folder."""

    def __init__(self, settings: Settings, data: Path) -> None:
        self.settings, self.run = settings, Run(settings.run)
        pairs, equal = read_pairs(data)
        split_by_instruction(pairs, settings.held_out, settings.seed)  # complains before anything is written
        chosen = {name: value for name, value in asdict(settings).items() if name not in FREE}
        sections: dict[str, Any] = {"taste": chosen | {"pairs": f"{zlib.crc32(repr(pairs).encode()):08x}"}}
        self.run.must_match(**sections)
        self.run.describe(**sections)
        places = self.stage("pairs", lambda: {"fitting": self.fitting(pairs)})["fitting"]
        self.split: Split = split_by_instruction([pairs[i] for i in places], settings.held_out, settings.seed)
        parts = "{} pairs to learn from, {} for the judge, {} held out".format(*map(len, self.split))
        long = f"{len(pairs) - len(places)} longer than {settings.context} tokens"
        print(f"{parts}; left out: {equal} with equal answers, {long}")
        self.drafted = [pair.task for pair in self.split.learning[: settings.prompts]]
        self.tests = [pair.task for pair in self.split.held_out]

    def stage(self, name: str, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The saved result of a stage; computed now if there is none. Ctrl-C says how to continue."""
        path = self.run / f"{name}.json"
        if not path.exists():
            print(f"── {name}", flush=True)
            try:
                write_result(path, compute())
            except KeyboardInterrupt as stop:
                raise KeyboardInterrupt(str(stop) or stopped(f"a part of the stage {name!r}", self.run, True)) from None
        return read_object(path)

    def original(self) -> tuple[GPT, Any, int]:
        """A fresh copy of the original model, its tokenizer, and the number of blocks that stay frozen."""
        gpt, tokenizer = load(self.settings.model)
        frozen = len(gpt.h) // 2 if self.settings.frozen is None else self.settings.frozen
        return gpt, tokenizer, frozen

    # ── the stages ──

    def fitting(self, pairs: list[ResponsePair]) -> list[int]:
        """The numbers of the pairs that are short enough for the model and its memory."""
        gpt, tokenizer, _ = self.original()
        return fitting(pairs, tokenizer, min(self.settings.context, gpt.config.context - 1))

    def drafts(self) -> dict[str, Any]:
        """The original model's texts: k drafts for each instruction to learn from and for some tests, and all its answers."""
        s, (gpt, tokenizer, frozen) = self.settings, self.original()
        print(f"the whole command takes about {expected_minutes(gpt, tokenizer, frozen, self):.0f} minutes", flush=True)

        def write(tasks: Sequence[Instruction], k: int, temperature: float, name: str) -> list[list[list[int]]]:
            path = self.run / f"{name}.json"
            return write_answers(gpt, tokenizer, tasks, k, temperature, s.max_new_tokens, s.seed, path)

        ids = {
            "learning": write(self.drafted, s.k, s.temperature, "drafts-learning"),
            "tests": write(self.tests[: s.best_of], s.k, s.temperature, "drafts-tests"),
            "before": write(self.tests, 1, 0.0, "drafts-before"),
        }
        return ids | {"texts": {name: decoded(tokenizer, answers) for name, answers in ids.items()}}

    def labelled(self, texts: Sequence[Sequence[str]]) -> list[ResponsePair] | None:
        """The reader's pairs of the model's own drafts; None if the reader stops."""
        different = [list(dict.fromkeys(drafts)) for drafts in texts]
        choices = [Choice(task, *drafts[:2]) for task, drafts in zip(self.drafted, different, strict=True) if len(drafts) > 1]
        choices = choices[: self.settings.labels]
        preferred = label(choices, self.run / "labels.json")
        if preferred is None:
            return None
        sides = [(choice, side) for choice, side in zip(choices, preferred, strict=True) if side is not None]
        return [ResponsePair(task, *((a, b) if side == 0 else (b, a))) for (task, a, b), side in sides]

    def rewards(self, drafts: dict[str, Any], pairs: list[ResponsePair], tests: list[ResponsePair]) -> dict[str, Any]:
        """Learn a reward model, compare the tests' answers, and score all drafts."""
        model, tokenizer = self.reward_model(pairs, "reward")
        return {
            "gaps": gaps_of(model, [to_ranking(pair, tokenizer) for pair in tests]).tolist(),
            "learning": score(model, tokenizer, self.drafted, drafts["learning"]),
            "tests": score(model, tokenizer, self.tests[: self.settings.best_of], drafts["tests"]),
        }

    def reward_model(self, pairs: list[ResponsePair], folder: str) -> tuple[ScalarModel, Any]:
        """A reward model from pairs, and its tokenizer."""
        s, (gpt, tokenizer, frozen) = self.settings, self.original()
        rankings = [to_ranking(pair, tokenizer) for pair in pairs]
        config = replace(s.reward, seed=s.seed)
        return learn_reward(adapted(gpt, frozen, s.rank, s.seed), rankings, config, Run(self.run / folder)), tokenizer

    def after(self, drafts: dict[str, Any], rewards: dict[str, Any]) -> dict[str, Any]:
        """DPO from the best and the worst draft of each instruction; the tuned model answers all tests."""
        s, (gpt, tokenizer, frozen) = self.settings, self.original()
        prompts = [prompt_ids(tokenizer, task) for task in self.drafted]
        rankings = best_and_worst(prompts, drafts["learning"], np.array(rewards["learning"]), end_id(tokenizer))
        learn_taste(adapted(gpt, frozen, s.rank, s.seed), rankings, replace(s.dpo, seed=s.seed), s.beta, Run(self.run / "dpo"))
        save_model(self.run, merge_lora(gpt), tokenizer, "turns" if marks_turns(tokenizer) else "instruction")
        path = self.run / "drafts-after.json"
        answers = write_answers(gpt, tokenizer, self.tests, 1, 0.0, s.max_new_tokens, s.seed, path)
        return {"ids": answers, "texts": decoded(tokenizer, answers)}

    def judged(self, drafts: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
        """Learn a second reward model from the other half of the pairs, which judges the answers before and after."""
        model, tokenizer = self.reward_model(self.split.judging, "judge")
        return {
            "gaps": gaps_of(model, [to_ranking(pair, tokenizer) for pair in self.split.held_out]).tolist(),
            "tests": score(model, tokenizer, self.tests[: self.settings.best_of], drafts["tests"]),
            "before": score(model, tokenizer, self.tests, drafts["before"]),
            "after": score(model, tokenizer, self.tests, tuned["ids"]),
        }


def decoded(tokenizer: Any, answers: Sequence[Sequence[Sequence[int]]]) -> list[list[str]]:
    """Answers to each instruction as texts."""
    return [[tokenizer.decode(list(answer)).strip() for answer in group] for group in answers]


def score(model: ScalarModel, tokenizer: Any, tasks: Sequence[Instruction], answers: Sequence[Any]) -> list[list[float]]:
    """The reward of each task's k answers."""
    end, k = end_id(tokenizer), len(answers[0])
    prompts = [prompt_ids(tokenizer, task) for task in tasks]
    rows = [[*prompt, *answer, end] for prompt, group in zip(prompts, answers, strict=True) for answer in group]
    model.gpt.vectors.clear()
    return reward_scores(model, rows, batch_size=32).reshape(len(tasks), k).tolist()


def expected_minutes(gpt: GPT, tokenizer: Any, frozen: int, taste: Taste) -> float:
    """How long the whole command will take: its work in tokens, times the measured seconds that reading a token takes.

    A written token costs three times as much as a token that is read, because each needs the vocabulary head and all weights
    anew. The backward pass of a block costs 1.4 times its forward pass.
    """
    s, split = taste.settings, taste.split
    sample = [[*prompt_ids(tokenizer, pair.task), *tokenizer.encode(pair.chosen)] for pair in split.learning[:64]]
    prompt = float(np.mean([len(prompt_ids(tokenizer, pair.task)) for pair in split.learning[:64]]))
    row, upper = float(np.mean([len(tokens) for tokens in sample])), 1 - frozen / len(gpt.h)
    rows = mg.as_tensor(np.zeros((16, min(round(row), gpt.config.context)), np.int64))
    with mg.no_grad():
        gpt(rows, last_only=True)  # compiles the kernels
        times = [time.perf_counter() for _ in range(3) if gpt(rows, last_only=True) is not None]
    seconds = min(np.diff(times)) / rows.numel()
    answer, drafts = 0.7 * s.max_new_tokens, s.k * (s.prompts + s.best_of)
    learned, models = (s.labels, 1) if s.label else (len(split.learning), 2)
    tokens = {
        "write": (drafts + 2 * len(split.held_out)) * answer * 3 + (s.prompts + s.best_of + 2 * len(split.held_out)) * prompt,
        "score": (drafts + 2 * len(split.held_out)) * (prompt + answer) + 2 * len(split.held_out) * row * models,
        "reward": (2 * learned * row * (1 - upper) + 2 * s.reward.steps * s.reward.batch_size * row * upper * 2.4) * models,
        "dpo": 2 * s.prompts * (prompt + answer) * (2 - upper)
        + 2 * s.dpo.steps * s.dpo.batch_size * (prompt + answer) * upper * 2.4,
    }
    return seconds * sum(tokens.values()) / 60


def main(settings: Settings) -> None:
    if settings.data is None:
        raise ValueError("--data: expected a JSON file with instruction, chosen and rejected answers, got none; give its path")
    at_least_one(settings, "prompts", "max_new_tokens", "labels", "held_out", "best_of", "rank")
    at_least(settings, 2, "k")
    at_least(settings, 0, "blind")
    taste = Taste(settings, settings.data)
    split, run = taste.split, taste.run
    drafts = taste.stage("drafts", taste.drafts)
    pairs, tests = split.learning, split.held_out
    if settings.label:
        labelled = taste.labelled(drafts["texts"]["learning"])
        if labelled is None:
            return
        pairs, tests = random_split(labelled, max(len(labelled) // 5, 1), settings.seed)
    rewards = taste.stage("rewards", lambda: taste.rewards(drafts, pairs, tests))
    tuned = taste.stage("after", lambda: taste.after(drafts, rewards))
    judge = None if settings.label else taste.stage("judge", lambda: taste.judged(drafts, tuned))

    before, after = ([texts[0] for texts in answers] for answers in (drafts["texts"]["before"], tuned["texts"]))
    bags = [
        fit_words(part, settings.seed)
        for part in ([pairs] if settings.label else [pairs, split.judging, pairs + split.judging])
    ]
    scores = measure_rewards(rewards, judge, bags, tests) | measure_answers([p.task for p in split.held_out], before, after)
    if judge:
        scores |= measure_preference(rewards, judge, bags[1], drafts["texts"]["tests"], before, after)
    run.write_scores(scores)
    (run / "answers.txt").write_text(answers_text(taste.tests, before, after) + "\n", encoding="utf-8")
    print(f"\n{answers_text(taste.tests, before, after)}\n\n{report_text(scores, settings.k)}")
    print(f"written to {run.folder}: python -m chapters.chat --model {run.folder}")
    ask_reader(taste, before, after)


def ask_reader(taste: Taste, before: Sequence[str], after: Sequence[str]) -> None:
    """The blind test, on the first tests whose answers differ."""
    different = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new][: taste.settings.blind]
    if not different:
        return print("no blind test: " + ("all answers are the same" if taste.settings.blind else "--blind is 0"))
    tasks, old, new = [taste.tests[i] for i in different], [before[i] for i in different], [after[i] for i in different]
    print(f"\nA blind test: {len(different)} instructions, each with the answers of both models in random order.")
    result = blind_test(tasks, old, new, taste.settings.seed, taste.run / "blind.json")
    if result:
        print(f"\n{result}")

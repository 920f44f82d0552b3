"""Wei et al. 2021: does practice on some kinds of tasks help with kinds never practised?

Claim, from "Finetuned Language Models Are Zero-Shot Learners" (arXiv:2109.01652): instruction tuning on over 60
datasets improves a model on kinds of tasks that it was never tuned on, without examples. FLAN 137B surpasses zero-shot
GPT-3 175B on 20 of 25 datasets (abstract), and more kinds of tasks help more (section 4.1, figure 6). Models of 8B
parameters and fewer get worse on unseen kinds (section 4.2, figure 7).

In miniature: a grid of twelve attributes and six forms (chapters/world/grid.py). In each of three rounds the base model is
tuned on 1, 3 or 8 attributes, always with the same number of examples and steps, and tested on four others; each attribute
is unseen in one round. All tests are about subjects that tuning never asks about. There are two measures: how often the
right option is likelier than every wrong one (rank classification, as in Brown et al. 2020; the paper also lists the options in
the prompt, section 2.3), and the share of free answers that the grid's rule accepts. The options of a task differ only in the
value, as in "With Hugo lives a hen." and "With Hugo lives a goat." The base model is
asked both with the bare question and with the template, and the better result counts. A second set of tests combines seen
attributes with seen forms in ways that tuning never did.

While we tuned on worlds 1 to 3, the grid also had differences, the last thing of a list and the thing before another, which did
not profit. A model of this size that has practised first things takes the first thing for the last one: in world 1 its right
options fell from 85% to 35%. So the grid omits these three attributes.

Reproduced if on unseen attributes the model tuned on eight attributes chooses the right option more often than the base
model, and more often than the model tuned on one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT
from chapters.ch07_train import TrainConfig
from chapters.ch10.demonstrations import tune_with_rehearsal
from chapters.ch10.headlines.experiment import Bound, Experiment, Measurement, Row
from chapters.ch10.headlines.settings import FEW, tuning
from chapters.ch10.rollout import log_probs_of, to_rollouts
from chapters.ch10.sft import bare_prompt, respond, task_prompt
from chapters.support.run_folder import Run
from chapters.world import Instruction
from chapters.world.grid import FORMS, Division, GridTask, accepts, divisions, draw_tasks

Prompt: TypeAlias = Callable[[Instruction], str]  # bare_prompt or task_prompt
Tests: TypeAlias = dict[str, list[GridTask]]  # {ATTRIBUTES or COMBINATIONS: tasks}
Results: TypeAlias = dict[str, dict[str, list[float]]]  # {ATTRIBUTES or COMBINATIONS: {OPTION or FREE: 1.0 or 0.0 a test}}
ATTRIBUTES, COMBINATIONS = "unseen attributes", "unseen combinations"
OPTION, FREE = "right option", "free answer"


@dataclass
class WeiSettings:
    """How much of the grid tuning sees, and how long it takes."""

    rounds: int = 3  # parts of the twelve attributes, each unseen in one round
    attributes: tuple[int, ...] = (1, 3, 8)  # attributes to tune on
    unseen_combinations: int = 12  # combinations of seen attributes and forms that tuning never sees, in each round
    tests: int = 600  # tests of unseen attributes in each round; of unseen combinations there are half as many
    training: TrainConfig = field(default_factory=lambda: tuning(steps=500, lr=1e-3, muon_lr=5e-3, min_lr=5e-5))


QUICK = WeiSettings(rounds=2, attributes=(1, 6), tests=8, training=FEW)


def measure(experiment: Experiment, settings: WeiSettings) -> Measurement:
    """In each round, tune the base model on more and more attributes, and test it on the attributes of the other part."""
    tests: list[Tests] = []
    results: dict[int, list[Results]] = {count: [] for count in (0, *settings.attributes)}  # a list entry for each round
    for i, division in enumerate(divisions(experiment.seed, settings.rounds, settings.unseen_combinations)):
        tests.append(draw_tests(experiment, division, settings.tests))
        for count, by_round in results.items():
            arguments = settings.training, division, count, tests[i]
            by_round.append(experiment.cached(f"wei_{i}_{count}", results_after, *arguments))

    def shares(name: str, how: str) -> list[list[float]]:
        return [[count, float(np.mean(joined(by_round, name, how)))] for count, by_round in results.items()]

    chosen, free = shares(ATTRIBUTES, OPTION), shares(ATTRIBUTES, FREE)
    combined, combined_free = shares(COMBINATIONS, OPTION), shares(COMBINATIONS, FREE)
    (_, base), (_, few), *_, (_, most) = chosen
    return Measurement(
        quantities={
            "rise over the base model": most - base,
            "rise over the fewest attributes": most - few,
            "right options, base model": base,
            "right options, fewest attributes": few,
            "right options, most attributes": most,
            "right options by guessing": guessing(tests, ATTRIBUTES),
            "rise on unseen combinations": combined[-1][1] - combined[0][1],
            "right options of unseen combinations": combined[-1][1],
            "rise in free answers": free[-1][1] - free[0][1],
            "free answers accepted": free[-1][1],
            "free answers accepted, unseen combinations": combined_free[-1][1],
        },
        series={
            "right option likeliest": chosen,
            "free answer accepted": free,
            "guessing": [[count, guessing(tests, ATTRIBUTES)] for count in results],
        },
        details={
            "by attribute": {str(count): by_part(tests, by_round, 0) for count, by_round in results.items()},
            "by form": {str(count): by_part(tests, by_round, 1) for count, by_round in results.items()},
            "unseen combinations": {OPTION: combined, FREE: combined_free, "guessing": guessing(tests, COMBINATIONS)},
        },
    )


def draw_tests(experiment: Experiment, division: Division, n: int) -> Tests:
    """n tests of the attributes that tuning never sees, and half as many of the combinations; all of held-out subjects."""
    attributes = [*product(division.unseen_attributes, FORMS)]
    return {
        ATTRIBUTES: draw_tasks(experiment.world, attributes, "test", n, experiment.seed),
        COMBINATIONS: draw_tasks(experiment.world, division.unseen_combinations, "test", n // 2, experiment.seed),
    }


# ── tuning and testing ───────────────────────────────────────────────────────────────────────────────────────────────


def results_after(experiment: Experiment, config: TrainConfig, division: Division, count: int, tests: Tests) -> Results:
    """The results of the base model after instruction tuning on `count` attributes; 0 leaves it as it is."""
    model, tokenizer = experiment.base()
    if count == 0:
        ways = [results_of(model, tokenizer, tests, prompt) for prompt in (bare_prompt, task_prompt)]
        return {name: {how: max((way[name][how] for way in ways), key=np.mean) for how in (OPTION, FREE)} for name in tests}
    config = replace(config, seed=experiment.seed)
    n = config.steps * config.batch_size
    tasks = draw_tasks(experiment.world, division.training(count), "train", n, experiment.seed)
    with TemporaryDirectory() as folder:
        tune_with_rehearsal(model, tokenizer, experiment.world, tasks, config, Run(folder))
    return results_of(model, tokenizer, tests, task_prompt)


def results_of(model: GPT, tokenizer: Tokenizer, tests: Tests, prompt: Prompt) -> Results:
    """A model's results: for each test, is the right option likeliest, and is the free answer accepted?"""
    results: Results = {}
    for name, tasks in tests.items():
        answers = [text.split("\n")[0] for text in respond(model, tokenizer, [prompt(task) for task in tasks], 24)]
        accepted = [float(accepts(task, answer)) for task, answer in zip(tasks, answers, strict=True)]
        results[name] = {OPTION: choose(model, tokenizer, tasks, prompt), FREE: accepted}
    return results


def choose(model: GPT, tokenizer: Tokenizer, tasks: Sequence[GridTask], prompt: Prompt) -> list[float]:
    """For each task, 1.0 if the right option is likelier than every other one, else 0.0."""
    prompts = [tokenizer.encode(prompt(task)) for task in tasks for _ in task.options]
    options = [tokenizer.encode(option) for task in tasks for option in task.options]
    log_probs = log_probs_of(model, to_rollouts(prompts, options, [True] * len(prompts))).sum(axis=1)  # (number of options,)
    by_task = np.split(log_probs, np.cumsum([len(task.options) for task in tasks])[:-1])
    return [float(right > max(others)) for right, *others in by_task]


# ── shares ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def joined(by_round: Sequence[Results], name: str, how: str) -> list[float]:
    """The results of all rounds in one list."""
    return [result for results in by_round for result in results[name][how]]


def guessing(tests: Sequence[Tests], name: str) -> float:
    """The share of right options that guessing would give."""
    return float(np.mean([1 / len(task.options) for of_round in tests for task in of_round[name]]))


def by_part(tests: Sequence[Tests], by_round: Sequence[Results], part: int) -> dict[str, float]:
    """Right options on unseen attributes, for each attribute (part 0) or each form (part 1)."""
    names = [task.family.split("/")[part] for of_round in tests for task in of_round[ATTRIBUTES]]
    pairs = list(zip(names, joined(by_round, ATTRIBUTES, OPTION), strict=True))
    return {name: float(np.mean([right for other, right in pairs if other == name])) for name in sorted(set(names))}


WEI = Row(
    name="wei",
    paper="Wei et al. 2021",
    arxiv="2109.01652",
    claim="instruction tuning on more than 60 datasets lifts zero-shot accuracy on unseen kinds of tasks: 137B surpasses "
    "zero-shot GPT-3 175B on 20 of 25 (abstract), and more kinds help more (figure 6)",
    criterion=(Bound("rise over the base model", above=0.0), Bound("rise over the fewest attributes", above=0.0)),
    minutes=3,
    settings=WeiSettings(),
    quick=QUICK,
    measure=measure,
    axes=("attributes in tuning", "share of tests of unseen attributes", "linear"),
)

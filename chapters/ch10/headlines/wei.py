"""Wei et al. 2021: does practice on some kinds of tasks help with kinds never practised?

Claim, from "Finetuned Language Models Are Zero-Shot Learners" (arXiv:2109.01652): instruction tuning on over 60
datasets improves a model on kinds of tasks that it was never tuned on, without examples. FLAN 137B surpasses zero-shot
GPT-3 175B on 20 of 25 datasets (abstract), and more kinds of tasks help more (section 4.1, figure 6). Models of 8B
parameters and fewer get worse on unseen kinds (section 4.2, figure 7).

In miniature: the base model is tuned on 0, 1, 2, 4, 8 or all 16 families of the world's tasks, always with the same
number of examples and steps, and tested on three families that it never saw. There are two measures: how often a right
option is likelier than every wrong one, which is the paper's measure for tasks with options (section 2.3), and the
share of free answers that the family's rule accepts. The base model is asked both with the bare question and with the
template, and the better result counts.

Reproduced if the model tuned on all families chooses right options more often than the base model and than the model tuned
on one family, with the intervals of both differences above 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT
from chapters.ch10.constitution.principles import Texts
from chapters.ch10.demonstrations import tune_with_rehearsal
from chapters.ch10.headlines.experiment import Experiment, Headline, interval
from chapters.ch10.rollout import log_probs_of, to_rollouts
from chapters.ch10.sft import Tasks, ask, ask_base, bare_prompt, task_prompt
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.facts import KINDS, SeededRandom

Prompt = Callable[[Instruction], str]

# {family: a task's options; each can be the last word of the answer, and one of them is right}
OPTIONS: dict[str, Callable[[Instruction], Texts]] = {
    "pet": lambda task: KINDS["animal"],
    "take_away": lambda task: [str(n) for n in range(1, 6)],
    "last": lambda task: task.key.split(", "),
}


def wei(experiment: Experiment) -> Headline:
    """Wei et al. 2021: instruction tuning and kinds of tasks never seen."""
    settings = experiment.settings
    tests = experiment.world.instructions("test_families", settings.unseen, settings.seed + 2)
    results = {0: [experiment.cached("wei_0", measure_base, tests)]}
    for count in settings.families:
        results[count] = [
            experiment.cached(f"wei_{count}_{seed}", tune_and_measure, tests, count, seed) for seed in settings.seeds
        ]
    right, accepted = (
        {count: np.array([result[name] for result in by_seed]) for count, by_seed in results.items()}  # (S, N) each
        for name in ("chosen", "free")
    )
    least, most = settings.families[0], settings.families[-1]
    over_base, over_one = right[most] - right[0], right[most] - right[least]  # (S, N) each
    intervals = {"all less none": interval(over_base), f"all less {least}": interval(over_one)}
    guessing = float(np.mean([1 / len(OPTIONS[task.family](task)) for task in tests]))
    measures = {"right option likeliest": right, "free answer accepted": accepted}
    return Headline(
        paper="Wei et al. 2021",
        arxiv="2109.01652",
        claim="instruction tuning lifts zero-shot accuracy on unseen kinds of tasks, and more kinds lift it more",
        theirs="tuned on 60+ datasets, 137B surpasses zero-shot GPT-3 175B on 20 of 25 (abstract); "
        "accuracy rises with the number of task clusters (figure 6)",
        measured=f"rise in the share of unseen tasks whose right option is likeliest, from no family to {most}",
        ours=over_base.mean(),
        interval=intervals["all less none"],
        level=0.0,
        seeds=settings.seeds,
        reproduced=min(low for low, _ in intervals.values()) > 0,
        reason=f"right options: {percentages(right)} of tests after {', '.join(map(str, right))} families, "
        f"{guessing:.0%} by guessing; free answers accepted: {percentages(accepted)}",
        sizes={"parameters": experiment.base()[0].num_parameters(), "tests": len(tests)},
        details={
            **{name: {str(count): float(v.mean()) for count, v in values.items()} for name, values in measures.items()},
            "guessing": guessing,
            "intervals": intervals,
            "by family": {str(count): by_family(tests, values.mean(axis=0)) for count, values in right.items()},
        },
        series={name: [(count, float(v.mean())) for count, v in values.items()] for name, values in measures.items()},
    )


def percentages(values: Mapping[int, np.ndarray]) -> str:
    return ", ".join(f"{each.mean():.0%}" for each in values.values())


def by_family(tests: Tasks, values: np.ndarray) -> dict[str, float]:
    pairs = list(zip(tests, values, strict=True))
    return {family: float(np.mean([value for test, value in pairs if test.family == family])) for family in OPTIONS}


def measure_base(experiment: Experiment, tests: Tasks) -> dict[str, list[float]]:
    """The base model's results with the bare question or with the template, whichever are better."""
    model, tokenizer = experiment.base()
    ways = [measure(experiment, model, tokenizer, tests, *way) for way in ((bare_prompt, ask_base), (task_prompt, ask))]
    return {name: max((way[name] for way in ways), key=np.mean) for name in ("chosen", "free")}


def tune_and_measure(experiment: Experiment, tests: Tasks, count: int, seed: int) -> dict[str, list[float]]:
    """The base model's results after instruction tuning on `count` families, which the seed draws."""
    model, tokenizer = experiment.base()
    families = SeededRandom(f"families/{seed}").shuffled(experiment.world.families)[:count]
    config = replace(experiment.settings.instructing, seed=seed)
    tasks = experiment.world.instructions("train", config.steps * config.batch_size, seed, families)
    with TemporaryDirectory() as folder:
        tune_with_rehearsal(model, tokenizer, experiment.world, tasks, config, Run(folder))
    return measure(experiment, model, tokenizer, tests, task_prompt, ask)


def measure(
    experiment: Experiment, model: GPT, tokenizer: Tokenizer, tests: Tasks, prompt: Prompt, ask: Callable
) -> dict[str, list[float]]:
    """1.0 or 0.0 for each test: "chosen", was a right option likeliest? "free", was the free answer accepted?

    prompt: gives the text before an option.  ask: sft.ask or sft.ask_base, for the free answers.
    """
    answers = [text.split("\n")[0] for text in ask(model, tokenizer, tests)]
    free = [float(experiment.world.accepts(task, answer)) for task, answer in zip(tests, answers, strict=True)]
    return {"chosen": choose(experiment.world, model, tokenizer, tests, prompt), "free": free}


def choose(world: World, model: GPT, tokenizer: Tokenizer, tests: Tasks, prompt: Prompt) -> list[float]:
    """For each test, 1.0 if the family's rule accepts the likeliest option, else 0.0."""
    options = [[answer(task, option) for option in OPTIONS[task.family](task)] for task in tests]
    prompts = [tokenizer.encode(prompt(task)) for task, texts in zip(tests, options, strict=True) for _ in texts]
    answers = [tokenizer.encode(text) for texts in options for text in texts]
    log_probs = log_probs_of(model, to_rollouts(prompts, answers, [True] * len(prompts))).sum(axis=1)  # (number of options,)
    by_test = np.split(log_probs, np.cumsum([len(texts) for texts in options])[:-1])
    best = [texts[int(values.argmax())] for texts, values in zip(options, by_test, strict=True)]
    return [float(world.accepts(task, text)) for task, text in zip(tests, best, strict=True)]


def answer(task: Instruction, option: str) -> str:
    """The right answer with another last word: "At home Mira keeps a cat." becomes "At home Mira keeps a dog."."""
    return f"{task.output[:-1].rsplit(' ', 1)[0]} {option}."

"""Wei et al. 2021: does practice on some kinds of tasks help with kinds never practised?"""

from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

from chapters.ch07_train import train
from chapters.ch10.demonstrations import RehearsalBatches, pretraining_batches
from chapters.ch10.headlines.experiment import Headline, interval, size
from chapters.ch10.rollout import log_probs_of, to_rollouts
from chapters.ch10.sft import InstructionBatches, ask, ask_base, format_prompt
from chapters.support.run_folder import Run
from chapters.world.facts import KINDS, SeededRandom

# The answers among which a test with options chooses: what stands for the value in the good answer.
OPTIONS = {
    "pet": lambda task: KINDS["animal"],
    "take_away": lambda task: [str(n) for n in range(1, 6)],
    "last": lambda task: task.key.split(", "),
}


def wei(stand):
    """ "Finetuned Language Models Are Zero-Shot Learners" (arXiv:2109.01652).

    Claim: tuned on instructions of over 60 datasets, a model does better, without examples, at kinds of tasks that it
    was never tuned on (FLAN 137B surpasses zero-shot GPT-3 175B on 20 of 25 datasets: abstract), and the better the
    more kinds of tasks it was tuned on (section 4.1, figure 6). Models of 8B and less, it reports, get worse at unseen
    kinds by it (section 4.2, figure 7).

    In miniature: the base model is tuned on 0, 1, 2, 4, 8 or all 16 families of the world's tasks, always with as many
    examples in as many steps, and asked about three families that it never saw. Two measures: how often the right one
    of the possible answers is likelier than every wrong one, as the paper measures tasks with options (section 2.3);
    and the share of free answers that the family's rule accepts. The base model gets the bare question or the
    template, whichever suits it better.
    Reproduced where options are chosen better after all families than by the base model and than after one family, the
    intervals of both differences above 0.
    """
    tests = stand.world.instructions("test_families", stand.settings.unseen, stand.settings.seed + 2)
    found = {0: [stand.noted("wei_0", untaught, stand, tests)]}
    for count in stand.settings.families:
        for seed in stand.settings.seeds:
            found.setdefault(count, []).append(stand.noted(f"wei_{count}_{seed}", taught, stand, tests, count, seed))
    chosen, free = (
        {count: np.array([one[name] for one in found[count]]) for count in found}  # (S, N) each
        for name in ("chosen", "free")
    )
    least, most = stand.settings.families[0], stand.settings.families[-1]
    over_base, over_one = chosen[most] - chosen[0], chosen[most] - chosen[least]  # (S, N) each
    intervals = {"all less none": interval(over_base), f"all less {least}": interval(over_one)}
    reproduced = min(low for low, _ in intervals.values()) > 0
    guessing = float(np.mean([1 / len(OPTIONS[task.family](task)) for task in tests]))
    return Headline(
        paper="Wei et al. 2021",
        arxiv="2109.01652",
        claim="instruction tuning lifts zero-shot accuracy on kinds of tasks never seen, more with more kinds",
        theirs="tuned on 60+ datasets, 137B surpasses zero-shot GPT-3 175B on 20 of 25 (abstract); "
        "rises with the number of task clusters (figure 6)",
        measured=f"rise, from no family to {most}, of the share of unseen tasks whose right option is likeliest",
        ours=float(over_base.mean()),
        interval=intervals["all less none"],
        level=0.0,
        unit="share",
        seeds=list(stand.settings.seeds),
        reproduced=reproduced,
        reason=f"options: {shares(chosen)} of tests right after {', '.join(map(str, chosen))} families, "
        f"{guessing:.0%} by guessing; free answers accepted: {shares(free)}",
        sizes={"parameters": size(stand.base()[0]), "tests": len(tests)},
        details={
            "right option likeliest": {str(count): float(values.mean()) for count, values in chosen.items()},
            "free answer accepted": {str(count): float(values.mean()) for count, values in free.items()},
            "guessing": guessing,
            "intervals": intervals,
            "by family": {str(count): by_family(tests, values.mean(axis=0)) for count, values in chosen.items()},
        },
        series={
            "right option likeliest": [(count, float(values.mean())) for count, values in chosen.items()],
            "free answer accepted": [(count, float(values.mean())) for count, values in free.items()],
        },
    )


def shares(found):
    return ", ".join(f"{values.mean():.0%}" for values in found.values())


def by_family(tests, values):
    return {
        family: float(np.mean([v for test, v in zip(tests, values, strict=True) if test.family == family]))
        for family in OPTIONS
    }


def untaught(stand, tests):
    """What the base model does, with the bare question or in the template."""
    model, tokenizer = stand.base()
    ways = [measure(stand, model, tokenizer, tests, prompt, how) for prompt, how in ((bare, ask_base), (framed, ask))]
    return {name: max((way[name] for way in ways), key=np.mean) for name in ("chosen", "free")}


def taught(stand, tests, count, seed):
    """What the base model does after instruction tuning on `count` families, drawn by the seed."""
    model, tokenizer = stand.base()
    families = SeededRandom(f"families/{seed}").shuffled(stand.world.families)[:count]
    config = replace(stand.settings.instructing, seed=seed)
    tasks = stand.world.instructions("train", config.steps * config.batch_size, seed, families)
    context = model.config.context
    new = InstructionBatches(tasks, tokenizer, context, config.batch_size, seed)
    old = pretraining_batches(stand.world, tokenizer, context, max(config.batch_size // 2, 1), seed)
    with TemporaryDirectory() as folder:
        train(model, RehearsalBatches(new, old), config, Run(folder))
    return measure(stand, model, tokenizer, tests, framed, ask)


def measure(stand, model, tokenizer, tests, prompt, how):
    """{"chosen": for each test whether the right option was likeliest, "free": whether the free answer was accepted}.

    prompt(task) -> the text before an option; how: ask or ask_base.
    """
    said = [text.split("\n")[0] for text in how(model, tokenizer, tests)]
    free = [float(stand.world.accepts(task, one)) for task, one in zip(tests, said, strict=True)]
    return {"chosen": choose(stand.world, model, tokenizer, tests, prompt), "free": free}


def choose(world, model, tokenizer, tests, prompt):
    """For each test 1.0 where the likeliest of its options is one that the family's rule accepts, else 0.0."""
    prompts, answers, texts = [], [], []
    for task in tests:
        options = [answer(task, option) for option in OPTIONS[task.family](task)]
        texts.append(options)
        prompts += [tokenizer.encode(prompt(task))] * len(options)
        answers += [tokenizer.encode(option) for option in options]
    log_probs = log_probs_of(model, to_rollouts(prompts, answers, [True] * len(prompts))).sum(axis=1)  # (all options,)
    right, first = [], 0
    for task, options in zip(tests, texts, strict=True):
        best = int(log_probs[first : first + len(options)].argmax())
        right.append(float(world.accepts(task, options[best])))
        first += len(options)
    return right


def answer(task, option):
    """The good answer with another value at its end: "At home Mira keeps a cat." -> "At home Mira keeps a dog."."""
    return f"{task.output[:-1].rsplit(' ', 1)[0]} {option}."


def bare(task):
    return f"{task.instruction}\n{task.input}\n" if task.input else f"{task.instruction}\n"


def framed(task):
    return format_prompt(task.instruction, task.input)

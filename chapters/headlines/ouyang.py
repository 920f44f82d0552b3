"""Ouyang et al. 2022: is a small model that was aligned worth more than a large one that was not?"""

import minigrad as mg
from chapters.ch10_assess import interval
from chapters.ch10_sft import ask_base, respond
from chapters.headlines.stand import TEMPERATURE, Headline, size, wins
from chapters.world.requests import requests

EXAMPLES = 3  # good answers before the question, for the base model's second try


def ouyang(stand):
    """ "Training language models to follow instructions with human feedback" (arXiv:2203.02155).

    Claim: labellers prefer what a 1.3B InstructGPT says to what the 175B GPT-3 says, 100 times its size (abstract;
    figure 1). InstructGPT 175B is preferred to GPT-3 175B 85 ± 3% of the time, and to GPT-3 with examples in its prompt
    71 ± 4% (section 1).

    In miniature: the small model, pretrained, fine-tuned on demonstrations and tuned with PPO against the reward model
    (a larger one, as in the paper, whose reward model has 6B), against a base model at least 50 times its size. The
    simulated judge, asked without noise, compares one response each to held-out tasks, an equal score being half a win.
    The base model continues the bare question, and its first line counts; and once more after three examples of good
    answers. It is drawn from at the temperature that is built into every assistant. Both read the same
    pages, the small one three times as many batches: 4400 of 8 × 128 tokens, the large one 1500.
    Reproduced where the ratio is at least 50, both intervals lie above a half, and the base model is really the better
    one by its own yardstick: its loss on held-back pages is not above the small one's.
    """
    settings = stand.settings
    base, tokenizer = stand.large()
    small = stand.small()[0]
    theirs = {
        "alone": stand.scores(bare_answers(stand, base, tokenizer)),
        "after examples": stand.scores(prompted_answers(stand, base, tokenizer)),
    }  # (N,) each
    found = {name: [] for name in theirs}
    for seed in settings.small_seeds:
        ours = stand.scores(stand.responses(*stand.small_policy(seed), seed))  # (N,)
        for name, scores in theirs.items():
            found[name].append(wins(ours, scores))  # (N,)
    mean = {name: sum(each) / len(each) for name, each in found.items()}  # (N,) each: of a task, over the seeds
    intervals = {name: interval(values) for name, values in mean.items()}
    ratio = size(base) / size(small)
    losses = {"small": stand.page_loss(small), "base": stand.page_loss(base)}
    worse = losses["base"] > losses["small"]
    reproduced = ratio >= 50 and min(low for low, _ in intervals.values()) > 0.5 and not worse
    low, high = intervals["after examples"]
    return Headline(
        paper="Ouyang et al. 2022",
        arxiv="2203.02155",
        claim="an aligned model is preferred to a base model a hundred times its size",
        theirs="1.3B InstructGPT preferred to 175B GPT-3 (abstract); at 175B on 85 ± 3%, "
        "on 71 ± 4% where GPT-3 sees examples (section 1)",
        measured=f"preferred by the simulated judge to a base model {ratio:.0f} times as large",
        ours=float(mean["alone"].mean()),
        interval=intervals["alone"],
        level=0.5,
        seeds=list(settings.small_seeds),
        reproduced=reproduced,
        reason=f"against the base model with {EXAMPLES} examples before the question "
        f"{mean['after examples'].mean():.1%} [{low:.1%}, {high:.1%}]; loss on held-back pages: "
        f"base {losses['base']:.3f}, small {losses['small']:.3f}" + ", so that the larger one is not better" * worse,
        sizes={
            "aligned": size(small), "base": size(base),
            "aligned, pretraining steps": settings.pretrain_small.steps,
            "base, pretraining steps": settings.pretrain_large.steps,
        },
        details={
            "wins": {name: float(values.mean()) for name, values in mean.items()},
            "intervals": intervals,
            "each seed": {name: [float(values.mean()) for values in each] for name, each in found.items()},
            "page loss": losses,
            "judge's mean score of the base": {name: float(values.mean()) for name, values in theirs.items()},
        },
        series={"a base model alone": [(ratio, float(mean["alone"].mean()))],
                "with examples": [(ratio, float(mean["after examples"].mean()))]},
    )  # fmt: skip


def first_lines(texts):
    return [text.strip().split("\n")[0] for text in texts]


def bare_answers(stand, model, tokenizer):
    """The first line of what the base model says after each held-out question."""
    dice = mg.Generator(stand.settings.seed)
    return first_lines(ask_base(model, tokenizer, stand.tests, temperature=TEMPERATURE, generator=dice))


def prompted_answers(stand, model, tokenizer):
    """The same after three questions of the training side with good answers, one of them a request to be refused."""
    world, seed = stand.world, stand.settings.seed
    shown = [*world.instructions("train", EXAMPLES - 1, seed, ["town", "sum"]), *requests(world, "train", 1, seed)]
    before = "".join(f"{line(task)}\n{task.output}\n\n" for task in shown)
    prompts = [f"{before}{line(task)}\n" for task in stand.tests]
    return first_lines(respond(model, tokenizer, prompts, temperature=TEMPERATURE, generator=mg.Generator(seed)))


def line(task):
    return f"{task.instruction} {task.input}".strip()

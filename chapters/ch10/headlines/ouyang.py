"""Ouyang et al. 2022: is a small model that was aligned worth more than a large one that was not?"""

import minigrad as mg
from chapters.ch10.headlines.experiment import TEMPERATURE, Headline, bar, listed, percent, preferred, size
from chapters.ch10.sft import ask_base, respond
from chapters.world.requests import requests

EXAMPLES = 3  # good answers before the question, for the base model's second try


def ouyang(stand):
    """ "Training language models to follow instructions with human feedback" (arXiv:2203.02155).

    Claim: labellers prefer what a 1.3B InstructGPT says to what the 175B GPT-3 says, 100 times its size (abstract;
    figure 1). InstructGPT 175B is preferred to GPT-3 175B 85 ± 3% of the time, and to GPT-3 with examples in its prompt
    71 ± 4% (section 1).

    In miniature: the small model, pretrained, fine-tuned on demonstrations and tuned with PPO against a reward model of
    its own size, learned from comparisons of its own responses, against a base model at least 50 times its size. The
    simulated judge, asked without noise, compares one response each to held-out tasks, an equal score being half a win.
    The base model continues the bare question, and its first line counts; and once more after three examples of good
    answers. It is drawn from at the temperature that is built into every assistant. Both read pages of the same text;
    every seed has a small model of its own, the large one is the same for all.
    Reproduced where the ratio is at least 50, both intervals lie above a half, and the base model is really the better
    one by its own yardstick: its loss on held-back pages is below that of every small one.
    """
    settings = stand.settings
    base, tokenizer = stand.large()
    smalls = [stand.small(seed)[0] for seed in settings.small_seeds]
    theirs = {
        "alone": stand.scores(bare_answers(stand, base, tokenizer)),
        "after examples": stand.scores(prompted_answers(stand, base, tokenizer)),
    }  # (N,) each
    found = preferred(stand, stand.small_policy, settings.small_seeds, theirs)
    ratio = size(base) / size(smalls[0])
    losses = {"small": [stand.page_loss(small) for small in smalls], "base": stand.page_loss(base)}
    better = losses["base"] < min(losses["small"])
    shown = found["after examples"]
    return Headline(
        paper="Ouyang et al. 2022",
        arxiv="2203.02155",
        claim="an aligned model is preferred to a base model a hundred times its size",
        theirs="1.3B InstructGPT preferred to 175B GPT-3 (abstract); at 175B on 85 ± 3%, "
        "on 71 ± 4% where GPT-3 sees examples (section 1)",
        measured=f"share that the simulated judge prefers to a base model {ratio:.0f} times as large",
        ours=found["alone"]["wins"],
        interval=found["alone"]["interval"],
        level=0.5,
        unit="share",
        seeds=list(settings.small_seeds),
        reproduced=ratio >= 50 and min(one["interval"][0] for one in found.values()) > 0.5 and better,
        reason=f"against the base model with {EXAMPLES} examples before the question {percent(shown)}; "
        f"loss on held-back pages: base {losses['base']:.3f}, small {listed(losses['small'], 3)}"
        + ("" if better else ", so that the larger one is not better"),
        sizes={
            "aligned": size(smalls[0]), "base": size(base),
            "aligned, pretraining steps": settings.pretrain_small.steps,
            "base, pretraining steps": settings.pretrain_large.steps,
        },
        details={
            "preferred": found,
            "page loss": losses,
            "judge's mean score of the base": {name: float(values.mean()) for name, values in theirs.items()},
        },
        series={f"to a base model {ratio:.0f} times as large": bar(found["alone"]),
                f"to the same after {EXAMPLES} examples": bar(shown)},
    )  # fmt: skip


def first_lines(texts):
    return [text.strip().split("\n")[0] for text in texts]


def bare_answers(stand, model, tokenizer):
    """The first line of what the base model says after each held-out question."""
    rng = mg.Generator(stand.settings.seed)
    return first_lines(ask_base(model, tokenizer, stand.tests, temperature=TEMPERATURE, generator=rng))


def prompted_answers(stand, model, tokenizer):
    """The same after three questions of the training side with good answers, one of them a request to be refused."""
    world, seed = stand.world, stand.settings.seed
    shown = [*world.instructions("train", EXAMPLES - 1, seed, ["town", "sum"]), *requests(world, "train", 1, seed)]
    before = "".join(f"{line(task)}\n{task.output}\n\n" for task in shown)
    prompts = [f"{before}{line(task)}\n" for task in stand.tests]
    return first_lines(respond(model, tokenizer, prompts, temperature=TEMPERATURE, generator=mg.Generator(seed)))


def line(task):
    return f"{task.instruction} {task.input}".strip()

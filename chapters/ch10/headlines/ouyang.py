"""Ouyang et al. 2022: is a small aligned model better than a large model that was not aligned?

Claim, from "Training language models to follow instructions with human feedback" (arXiv:2203.02155): labellers prefer
the responses of the 1.3B InstructGPT to those of the 175B GPT-3, with over 100 times its parameters (abstract; figure
1). InstructGPT 175B is preferred to GPT-3 175B 85 ± 3% of the time, and to GPT-3 with examples in its prompt 71 ± 4%
(section 1).

In miniature: the small model, after pretraining, demonstrations and PPO, against a base model with at least 50 times its
parameters. Its reward model is just as small, and learned from comparisons of the small model's responses. The
simulated judge, without noise, compares one response of each model to every held-out task; an equal score is half a win.
The base model continues the bare question, and its first line counts. In a second try, three examples of good answers
stand before the question. The base model samples at the temperature that is built into every assistant. Both models
learned from the same pages. Each seed has its own small model, and all seeds share the large one.

Reproduced if the ratio of sizes is at least 50, both intervals lie above one half, and the base model is really better by
itself: its loss on validation pages is below that of every small model.
"""

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT
from chapters.ch10.constitution.principles import Texts
from chapters.ch10.headlines.experiment import TEMPERATURE, Experiment, Headline
from chapters.ch10.sft import ask_base, respond
from chapters.world import Instruction
from chapters.world.requests import requests

EXAMPLES = 3  # examples before the question, in the base model's second try


def ouyang(experiment: Experiment) -> Headline:
    """Ouyang et al. 2022: a small aligned model against a large base model."""
    settings = experiment.settings
    base, tokenizer = experiment.base("large")
    small_models = [experiment.base("small", seed)[0] for seed in settings.small_seeds]
    base_scores = {
        "alone": experiment.scores(bare_answers(experiment, base, tokenizer)),
        "after examples": experiment.scores(prompted_answers(experiment, base, tokenizer)),
    }  # (N,) each
    rates = experiment.win_rates(base_scores)
    alone, prompted = rates["alone"], rates["after examples"]
    aligned_size, base_size = small_models[0].num_parameters(), base.num_parameters()
    ratio = base_size / aligned_size
    small_losses, base_loss = [experiment.page_loss(small) for small in small_models], experiment.page_loss(base)
    base_is_better, losses = base_loss < min(small_losses), ", ".join(f"{loss:.3f}" for loss in small_losses)
    return Headline(
        paper="Ouyang et al. 2022",
        arxiv="2203.02155",
        claim="an aligned model is preferred to a base model a hundred times its size",
        theirs="1.3B InstructGPT preferred to 175B GPT-3 (abstract); at 175B, preferred "
        "85 ± 3% of the time, and 71 ± 4% if GPT-3 sees examples (section 1)",
        measured=f"share of comparisons won against a base model {ratio:.0f} times as large",
        ours=alone.share,
        interval=alone.interval,
        seeds=settings.small_seeds,
        reproduced=ratio >= 50 and min(rate.interval[0] for rate in rates.values()) > 0.5 and base_is_better,
        reason=f"{prompted} against the base model with {EXAMPLES} examples before the question; "
        f"loss on validation pages: base {base_loss:.3f}, small {losses}"
        + ("" if base_is_better else ", so the larger model is not better"),
        sizes={
            "aligned": aligned_size,
            "base": base_size,
            "aligned, pretraining steps": settings.pretrain_small.steps,
            "base, pretraining steps": settings.pretrain_large.steps,
        },
        details={
            "preferred": {name: rate.as_json() for name, rate in rates.items()},
            "page loss": {"small": small_losses, "base": base_loss},
            "judge's mean score of the base": {name: float(values.mean()) for name, values in base_scores.items()},
        },
        series={
            f"to a base model {ratio:.0f} times as large": alone.bar,
            f"to the same model after {EXAMPLES} examples": prompted.bar,
        },
    )


def bare_answers(experiment: Experiment, model: GPT, tokenizer: Tokenizer) -> list[str]:
    """The first line of the base model's continuation of each held-out question."""
    rng = mg.Generator(experiment.settings.seed)
    return first_lines(ask_base(model, tokenizer, experiment.tests, temperature=TEMPERATURE, generator=rng))


def prompted_answers(experiment: Experiment, model: GPT, tokenizer: Tokenizer) -> list[str]:
    """The first line of each answer after EXAMPLES worked examples; the last example refuses a harmful request."""
    world, seed = experiment.world, experiment.settings.seed
    examples = [*world.instructions("train", EXAMPLES - 1, seed, ["town", "sum"]), *requests(world, "train", 1, seed)]
    before = "".join(f"{one_line(task)}\n{task.output}\n\n" for task in examples)
    prompts = [f"{before}{one_line(task)}\n" for task in experiment.tests]
    return first_lines(respond(model, tokenizer, prompts, temperature=TEMPERATURE, generator=mg.Generator(seed)))


def first_lines(texts: Texts) -> list[str]:
    return [text.strip().split("\n")[0] for text in texts]


def one_line(task: Instruction) -> str:
    return f"{task.instruction} {task.input}".strip()

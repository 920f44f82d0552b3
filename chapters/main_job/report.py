"""The main job's summary and page of results, made from the stages' results, figures and models alone.

The page is one file that asks no host for anything. It contains no date and no duration, so the same seed gives the same
bytes.
"""

from pathlib import Path
from typing import Any

from chapters import interactive
from chapters.interactive.attention import ATTENTION
from chapters.interactive.mask import MASK
from chapters.interactive.training import TRAINING
from chapters.main_job import second_report
from chapters.main_job.first_bend import Job
from chapters.support import html
from chapters.support.run_folder import Run
from minigrad.serialization import write_atomically

MODELS = {"base": "base model", "sft": "after instruction tuning", "sft_unmasked": "tuned without the mask"}
SUBTITLE = (
    "One small GPT, trained from scratch on a generated little world, then fine-tuned on labels, on instructions "
    "and on preferences."
)
QUICK = " This is the quick form, with less text and fewer steps; without `--quick` the models know far more."
FOOTER = (
    "Made by `{command}`, whose models wrote every answer on this page. The same command with the same number of threads and "
    "processes makes the same page; durations are in timing.jsonl beside it. The world, its facts and its rules for acceptable "
    "answers are generated; no person was asked."
)


def summary(job: Job) -> list[tuple[str, str, str]]:
    """(quantity, value, note) rows, for the terminal and for the page."""
    tokens, base, models = job.results["tokenizer"], job.results["pretrain"], job.results["evaluate"]["models"]
    pretrained, untrained = (job.results["classify"][f"{body} body"] for body in ("pretrained", "untrained"))
    gap = 100 * (pretrained["accuracy"] - untrained["accuracy"])
    before, tuned, unmasked = models["base"], models["sft"], models["sft_unmasked"]
    vocabulary = f"tokens, {tokens['bytes a token']} bytes each on average; vocabulary {tokens['vocabulary']:,}"
    body = f"of held-out snippets right; F1 {pretrained['f1']:.3f}"
    return [
        ("corpus", f"{tokens['tokens']:,}", vocabulary),
        ("base model", f"{base['parameters']:,}", f"parameters, pretrained for {base['steps']:,} optimizer steps"),
        ("  validation loss", f"{base['validation loss']:.3f}", "nats per token, on held-out pages"),
        ("  instructions accepted", share(before["test"]["all"]), "held out; judged by the first line of the answer"),
        ("  answered with a question", share(before["questions"]), "of the questions"),
        ("class head, pretrained body", share(pretrained["accuracy"]), body),
        ("  untrained body", share(untrained["accuracy"]), f"with the same recipe; pretraining is worth {gap:.1f} points"),
        ("after instruction tuning", share(tuned["test"]["all"]), "of held-out instructions accepted"),
        ("  answered with a question", share(tuned["questions"]), "of the questions"),
        ("  new kinds of task", share(tuned["test_families"]["all"]), "accepted, of families that training left out"),
        ("exercise 2, mask", share(tuned["boilerplate"]), "of bare headers continued with template boilerplate"),
        ("  no mask", share(unmasked["boilerplate"]), f"and {share(unmasked['test']['all'])} of instructions accepted"),
        *second_report.summary(job),
    ]


def share(value: float) -> str:
    return f"{value:.1%}"


# ── the sections: functions from a job to pieces of HTML ─────────────────────────────────────────────────────────────


def results(job: Job) -> list[str]:
    return [html.table(["", "", ""], summary(job), numbers={1}, notes=True)]


def base_model(job: Job) -> list[str]:
    samples = job.results["sample"]
    text = (
        "This model has had no fine-tuning. Without a prompt it writes pages like its training pages. It has learned the "
        "world's facts because they help to predict the next token."
    )
    maps = (
        f"Attention weights of block {samples['layer']}, one map per head. Each row is a token; bright columns are the earlier "
        "tokens that it attends to. The text is a page of the world."
    )
    loss = "Pretraining: training loss, and validation loss on held-out pages."
    return [
        html.paragraph(text),
        second_report.part(job, TRAINING, html.figure(job.out / "pretrain/figures/loss.svg", loss)),
        second_report.part(job, ATTENTION, html.figure(job.out / "sample/figures/attention.svg", maps)),
        html.paragraph("Four pages sampled without a prompt, at temperature 0.8:"),
        html.side_by_side([(f"page {i}", page, None) for i, page in enumerate(samples["unasked"], 1)]),
    ]


def class_head(job: Job) -> list[str]:
    bodies = {name: job.results["classify"][name] for name in ("pretrained body", "untrained body")}
    text = (
        "Each text is cut off in one of three places: inside a sentence, before the full stop of a sentence, or before the "
        "full stop of a paragraph. The mark itself is cut off too. A head with three outputs, read at the last token, "
        "replaces the vocabulary head. Both classifiers had the same examples, the same steps and the same seed."
    )
    return [
        html.paragraph(text),
        html.table(["", "accuracy", "F1, mean over labels"], [[name, r["accuracy"], r["f1"]] for name, r in bodies.items()]),
        html.figures(
            (job.out / "classify/figures/gap.svg", "The value of the pretrained body."),
            (job.out / "classify/figures/confusion.svg", "Pretrained body: true label against predicted label."),
        ),
    ]


def mask(job: Job) -> list[str]:
    example = (
        "One training example as the loss sees it. The colour of a token says whether the loss grades the model's prediction "
        "there. The blue seam, the last token of the prompt, is graded on purpose: its prediction is the first token of the "
        "answer."
    )
    curves = (
        "Chapter 7's loop, once with the mask and once without. The lines average over different tokens and cannot be "
        "compared. The dots can: they grade only the answers to held-out instructions."
    )
    return [
        second_report.part(job, MASK, html.figure(job.out / "sft/figures/mask.svg", example)),
        html.figure(job.out / "sft/figures/curves.svg", curves),
    ]


def answers(job: Job) -> list[str]:
    text = (
        "Three models answer held-out instructions greedily, one of each kind. Instruction tuning saw none of these "
        "instructions. Where it trained the same kind of task, it asked about other people, things and lists. The pretraining "
        "pages state the facts, and ask similar questions without answering them. The base model reads the bare instruction, "
        "and the rule judges its first line; the other two read the template."
    )
    blocks = [answered(row) for row in job.results["evaluate"]["shown"]]
    rest = [html.folded(f"… and {len(blocks) - 6} more kinds of task", *blocks[6:])] if len(blocks) > 6 else []
    return [html.paragraph(text), *blocks[:6], *rest]


def answered(row: dict[str, Any]) -> str:
    """One of evaluate's rows: the instruction, a good answer, and the answer of every model."""
    kind = f"{row['family']}, a kind of task that training left out" if row["split"] == "test_families" else row["family"]
    columns = [(MODELS[name], row["said"][name], row["accepted"][name]) for name in MODELS]
    question = html.paragraph(f"{row['instruction']} {row['input']}".strip(), "question")
    return question + html.paragraph(f"{kind}; a good answer: {row['reference']}", "note") + html.side_by_side(columns)


def families(job: Job) -> list[str]:
    models = job.results["evaluate"]["models"]
    rows = []
    for split, note in {"test": "", "test_families": " (left out of training)"}.items():
        shares = {name: models[name][split]["families"] for name in MODELS}
        rows += [[family + note, *(shares[name][family] for name in MODELS)] for family in shares["sft"]]
    return [
        html.figure(job.out / "evaluate/figures/families.svg", "Share of held-out instructions accepted."),
        html.table(["kind of task", *MODELS.values()], rows),
    ]


def exercise(job: Job) -> list[str]:
    keys = {"prompt masked": "sft", "nothing masked": "sft_unmasked"}
    models = {name: job.results["evaluate"]["models"][key] for name, key in keys.items()}
    text = (
        "Both models continued a bare `### Instruction:` at temperature 1. Template boilerplate means that the model wrote an "
        "instruction of its own and the header `### Response:` after it."
    )
    head = ["", "template boilerplate", "held-out instructions accepted"]
    return [
        html.paragraph(text),
        html.table(head, [[name, model["boilerplate"], model["test"]["all"]] for name, model in models.items()]),
        html.side_by_side((name, text, None) for name, model in models.items() for text in model["after a bare header"]),
    ]


SECTIONS = {  # anchor: (menu title, line above the title, title, function)
    "results": ("Results", "Measurements", "Results", results),
    "base": ("The base model", "Chapters 1 to 8", "The base model continues", base_model),
    "head": ("A new head", "Section 10.2 · exercise 3", "The same body, a new head", class_head),
    "prompt_mask": ("The mask", "Section 10.3", "Only the response counts", mask),
    "answers": ("Side by side", "The bend", "One instruction, three models", answers),
    "families": ("Task by task", "Held-out instructions", "Task by task", families),
    "exercise": ("Exercise 2", "Exercise 2", "Mask against no mask", exercise),
    **second_report.SECTIONS,
}


def write_report(job: Job) -> Path:
    """Write the page of results, report.html, with every figure, model output and script inside it."""
    sections = {
        anchor: (menu, html.section(anchor, small, title, *pieces(job)))
        for anchor, (menu, small, title, pieces) in SECTIONS.items()
    }
    command = f"python -m chapters --seed {job.seed}" + (" --quick" if job.quick else "")
    subtitle = SUBTITLE + (QUICK if job.quick else "")
    footer = FOOTER.format(command=command)
    text = html.page("From raw text to an assistant", subtitle, sections, footer, head=interactive.scripts())
    path = Run(job.out) / "report.html"
    write_atomically(path, text.encode())
    return path

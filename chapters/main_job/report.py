"""The main job's page of results: put together from what the stages left in their folders, and from nothing else.

It measures nothing and holds neither date nor duration, so that the same seed gives the same bytes.
"""

from chapters.main_job import second_report
from chapters.support import html
from chapters.support.run_folder import Run

BENDS = {"base": "base model", "sft": "after instruction tuning", "sft_unmasked": "tuned without the mask"}


def summary(job):
    """What was measured, as (what, value as text, note), for the terminal and for the page."""
    tokens, base, models = job.results["tokenizer"], job.results["pretrain"], job.results["evaluate"]["models"]
    pretrained, untrained = (job.results["classify"][f"{body} body"] for body in ("pretrained", "untrained"))
    gap = 100 * (pretrained["accuracy"] - untrained["accuracy"])
    read, tuned, unmasked = models["base"], models["sft"], models["sft_unmasked"]
    return [
        (
            "corpus",
            f"{tokens['tokens']:,}",
            f"tokens of {tokens['bytes a token']} bytes; vocabulary {tokens['vocabulary']:,}",
        ),
        ("base model", f"{base['parameters']:,}", f"parameters, pretrained for {base['steps']:,} steps"),
        ("  validation loss", f"{base['validation loss']:.3f}", "nats a token, on pages kept back"),
        ("  instructions accepted", share(read["test"]["all"]), "held out; its first line is judged"),
        ("  questions for questions", share(read["questions"]), "of the questions, answered with another question"),
        ("class head, pretrained body", share(pretrained["accuracy"]), f"held-out snippets; F1 {pretrained['f1']:.3f}"),
        ("  untrained body", share(untrained["accuracy"]), f"the same recipe; pretraining bought {gap:.1f} points"),
        ("after instruction tuning", share(tuned["test"]["all"]), "held-out instructions accepted"),
        ("  questions for questions", share(tuned["questions"]), "of the questions"),
        ("  new kinds of task", share(tuned["test_families"]["all"]), "accepted, of families never trained on"),
        ("exercise 2, mask", share(tuned["boilerplate"]), "of bare headers continued as a template"),
        ("  no mask", share(unmasked["boilerplate"]), f"and {share(unmasked['test']['all'])} of instructions accepted"),
        *second_report.summary(job),
    ]


def share(value):
    return f"{value:.1%}"


def write_report(job):
    """The page of results, report.html, with every figure inside it."""
    makers = {
        "results": ("Results", results),
        "base": ("The base model", base_model),
        "head": ("A new head", class_head),
        "mask": ("The mask", mask),
        "answers": ("Side by side", answers),
        "families": ("Task by task", families),
        "exercise": ("Exercise 2", exercise),
        **second_report.sections(job),
    }
    sections = {anchor: (title, make(job, anchor)) for anchor, (title, make) in makers.items()}
    command = f"python -m chapters --seed {job.seed}" + (" --quick" if job.quick else "")
    subtitle = SUBTITLE + (QUICK if job.quick else "")
    text = html.page("From raw text to an assistant", subtitle, sections, FOOTER.format(command=command))
    path = Run(job.out) / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


SUBTITLE = (
    "One small GPT, trained from nothing on a generated little world, then bent: to a label, to an instruction, "
    "and to what is preferred."
)
QUICK = " This is the quick form, with less of everything; without --quick the models know far more."
FOOTER = (
    "Made by `{command}`. Every text and every figure on this page comes from models that this command trained; how long "
    "it took is in timing.jsonl beside it. On as many threads and processes it makes the same page again. The world, its "
    "facts and its rules for what is an acceptable answer are generated; no person was asked."
)


# ── the sections: (job, anchor) -> HTML ──────────────────────────────────────────────────────────────────────────────


def results(job, anchor):
    return html.section(anchor, "What was measured", "Results", html.table(["", "", ""], summary(job), numbers={1}))


def base_model(job, anchor):
    found = job.results["sample"]
    text = (
        "Before any fine-tuning. Left to itself the model writes pages like those it read; it has learned the world's facts "
        "because they helped to guess the next token."
    )
    loss = "Pretraining: the loss of each step, and on pages kept back."
    maps = (
        f"Where the heads of block {found['layer']} look: a row is a token, and its bright columns are the earlier tokens "
        "that it reads. The text is a page of the world."
    )
    return html.section(
        anchor,
        "Chapters 1 to 8",
        "The base model continues",
        html.paragraph(text),
        html.figure(job.out / "pretrain" / "figures" / "loss.png", loss),
        html.figure(job.out / "sample" / "figures" / "attention.png", maps),
        html.paragraph("Four pages that it wrote from nothing, at temperature 0.8:"),
        html.side_by_side([(f"page {i}", page, None) for i, page in enumerate(found["unasked"], 1)]),
    )


def class_head(job, anchor):
    bodies = {name: job.results["classify"][name] for name in ("pretrained body", "untrained body")}
    figures = job.out / "classify" / "figures"
    text = (
        "A text is cut off inside a sentence, before the full stop of a sentence, or before the full stop of a paragraph; "
        "the mark itself is cut off too. The vocabulary head is replaced by one with three outputs, read at the last "
        "token. Both classifiers had the same examples, the same steps and the same seed."
    )
    return html.section(
        anchor,
        "Section 10.2 · exercise 3",
        "The same body, a new head",
        html.paragraph(text),
        html.table(["", "accuracy", "F1, mean over labels"], [[name, r["accuracy"], r["f1"]] for name, r in bodies.items()]),
        html.figures(
            (figures / "gap.png", "What the pretrained body is worth."),
            (figures / "confusion.png", "Pretrained body: what is true against what was said."),
        ),
    )


def mask(job, anchor):
    figures = job.out / "sft" / "figures"
    text = (
        "One training example as the loss sees it. Each token's colour says whether the model is graded on what it "
        "predicts there. The blue seam, the last token of the prompt, is graded on purpose: what it predicts is the first "
        "token of the answer."
    )
    curves = (
        "Chapter 7's loop, once with the mask and once without. The lines average different tokens and do not compare; "
        "the dots do: held-out instructions, answers only."
    )
    return html.section(
        anchor,
        "Section 10.3",
        "What counts is the response",
        html.paragraph(text),
        html.figure(figures / "mask.png", "An instruction and its response in Alpaca's template."),
        html.figure(figures / "curves.png", curves),
    )


def answers(job, anchor):
    text = (
        "Held-out instructions, one of each kind, answered greedily: instruction tuning never saw them, nor, where they ask "
        "for a fact, the person or thing they ask about. The pages of pretraining state the facts, and ask other questions of "
        "the same kinds without answering. The base model sees the bare line, as on such a page, and its first line is "
        "judged; the other two see the template."
    )
    blocks = [answered(one) for one in job.results["evaluate"]["shown"]]
    rest = html.folded(f"… and {len(blocks) - 6} more kinds of task", *blocks[6:]) if len(blocks) > 6 else ""
    return html.section(anchor, "The bend", "One instruction, three models", html.paragraph(text), *blocks[:6], rest)


def answered(one):
    """One of evaluate's "shown": the instruction, a good answer, and every model's."""
    kind = f"{one['family']}, a kind of task never trained on" if one["split"] == "test_families" else one["family"]
    return "".join([
        html.paragraph(f"{one['instruction']} {one['input']}".strip(), "question"),
        html.paragraph(f"{kind}; a good answer: {one['reference']}", "note"),
        html.side_by_side([(BENDS[name], one["said"][name], one["accepted"][name]) for name in BENDS]),
    ])  # fmt: skip


def families(job, anchor):
    models = job.results["evaluate"]["models"]
    rows = []
    for split, note in {"test": "", "test_families": " (never trained on)"}.items():
        shares = {name: models[name][split]["families"] for name in BENDS}
        rows += [[family + note, *(shares[name][family] for name in BENDS)] for family in shares["sft"]]
    return html.section(
        anchor,
        "Held-out instructions",
        "Task by task",
        html.figure(job.out / "evaluate" / "figures" / "families.png", "Share of held-out instructions accepted."),
        html.table(["kind of task", *BENDS.values()], rows),
    )


def exercise(job, anchor):
    models = {"prompt masked": "sft", "nothing masked": "sft_unmasked"}
    found = {name: job.results["evaluate"]["models"][key] for name, key in models.items()}
    text = (
        "Both models were given nothing but `### Instruction:` and sampled at temperature 1. Template boilerplate means "
        "that the model wrote an instruction of its own and the header `### Response:` after it."
    )
    head = ["", "template boilerplate", "held-out instructions accepted"]
    return html.section(
        anchor,
        "Exercise 2",
        "Mask against no mask",
        html.paragraph(text),
        html.table(head, [[name, one["boilerplate"], one["test"]["all"]] for name, one in found.items()]),
        html.side_by_side([(name, said, None) for name, one in found.items() for said in one["after a bare header"]]),
    )

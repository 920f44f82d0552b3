"""The main job's page of results: put together from what the stages left in their folders, and from nothing else.

It measures nothing and holds neither date nor duration, so that the same seed gives the same bytes.
"""

from chapters import html
from chapters.run_folder import Run

BENDS = {"base": "base model", "sft": "after instruction tuning", "sft_unmasked": "tuned without the mask"}


def summary(job):
    """What was measured, as (what, value as text, note), for the terminal and for the page."""
    tokens, base, found = job.results["tokenizer"], job.results["pretrain"], job.results["evaluate"]["models"]
    pretrained = job.results["classify"]["pretrained body"]
    untrained = job.results["classify"]["untrained body"]
    gap = 100 * (pretrained["accuracy"] - untrained["accuracy"])
    shares = [
        ("class head, pretrained body", pretrained["accuracy"], f"held-out snippets, 3 labels; F1 {pretrained['f1']:.3f}"),
        ("class head, untrained body", untrained["accuracy"], f"the same recipe: pretraining bought {gap:.1f} points"),
        ("base model, accepted", found["base"]["test"]["all"], "held-out instructions; its first line is judged"),
        ("base model, question for question", found["base"]["questions"], "of the questions, answered with another question"),
        ("instruction-tuned, accepted", found["sft"]["test"]["all"], "held-out instructions"),
        ("instruction-tuned, question for question", found["sft"]["questions"], "of the questions"),
        ("instruction-tuned, new kinds of task", found["sft"]["test_families"]["all"], "families it never saw; nothing promised"),
        ("exercise 2: boilerplate, masked", found["sft"]["boilerplate"], "writes on after a bare header, as a template"),
        ("exercise 2: boilerplate, not masked", found["sft_unmasked"]["boilerplate"],
         f"and accepted: {found['sft_unmasked']['test']['all']:.1%}"),
    ]  # fmt: skip
    return [
        (
            "corpus",
            f"{tokens['tokens']:,}",
            f"tokens, {tokens['bytes a token']} bytes each, {tokens['vocabulary']:,} in the vocabulary",
        ),
        ("parameters", f"{base['parameters']:,}", f"pretrained for {base['steps']:,} steps"),
        ("validation loss", f"{base['validation loss']:.3f}", "nats a token, on pages kept back"),
        *((what, f"{share:.1%}", note) for what, share, note in shares),
    ]


def write_report(job):
    """The page of results, report.html, with every figure inside it."""
    makers = {"results": ("Results", results), "base": ("The base model", base_model), "head": ("A new head", class_head),
              "mask": ("The mask", mask), "answers": ("Side by side", answers), "families": ("Task by task", families),
              "exercise": ("Exercise 2", exercise)}  # fmt: skip
    sections = {anchor: (title, make(job, anchor)) for anchor, (title, make) in makers.items()}
    flags = f"--seed {job.seed}" + (" --quick" if job.quick else "")
    text = html.page(
        "From raw text to an assistant",
        "One small GPT, trained from nothing on a generated little world, then bent twice: to a label, and to an instruction.",
        sections,
        f"Made by `python -m chapters {flags}`. Every text and every figure on this page comes from models that this "
        "command trained; how long it took is in timing.jsonl beside it. The world, its facts and its rules for what is an "
        "acceptable answer are generated, and no person was asked.",
    )
    path = Run(job.out) / "report.html"
    path.write_text(text, encoding="utf-8")
    return path


def results(job, anchor):
    return html.section(anchor, "What was measured", "Results", html.table(["", "", ""], summary(job), numbers={1}))


def base_model(job, anchor):
    found = job.results["sample"]
    return html.section(
        anchor,
        "Chapters 1 to 8",
        "The base model continues",
        html.paragraph("The metal before the bend. Left to itself the model writes pages like those it read; it has learned "
                       "the world's facts because they helped to guess the next token."),  # fmt: skip
        html.figures(
            (job.out / "pretrain" / "figures" / "loss.png", "Pretraining: the loss of each step, and on pages kept back."),
            (job.out / "sample" / "figures" / "attention.png",
             f"Where the heads of block {found['layer']} look: row t shows what position t reads. Brighter is more."),
        ),
        html.paragraph("Four pages that it wrote from nothing, at temperature 0.8:"),
        html.side_by_side([(f"page {i}", text, None) for i, text in enumerate(found["unasked"], 1)]),
    )  # fmt: skip


def class_head(job, anchor):
    trained = job.results["classify"]["pretrained body"]
    blank = job.results["classify"]["untrained body"]
    rows = [
        [name, result["accuracy"], result["f1"]]
        for name, result in (("pretrained body", trained), ("untrained body", blank))
    ]
    figures = job.out / "classify" / "figures"
    return html.section(
        anchor,
        "Section 10.2 · exercise 3",
        "The same body, a new head",
        html.paragraph("A text is cut off inside a sentence, before the full stop of a sentence, or before the full stop of a "
                       "paragraph; the mark itself is cut off too. The vocabulary head is replaced by one with three outputs, "
                       "read at the last token. Both classifiers had the same examples, steps and seed."),
        html.table(["", "accuracy", "F1, mean over labels"], rows),
        html.figures((figures / "gap.png", "What the pretrained body is worth."),
                     (figures / "confusion.png", "Pretrained body: what is true against what was said.")),
    )  # fmt: skip


def mask(job, anchor):
    figures = job.out / "sft" / "figures"
    return html.section(
        anchor,
        "Section 10.3",
        "Grade the answer, not the question",
        html.paragraph("One training example as the loss sees it. Each token's colour says whether the model is graded on what "
                       "it predicts there. The blue seam, the last token of the prompt, is graded on purpose: what it predicts "
                       "is the first token of the answer."),
        html.figure(figures / "mask.png", "An instruction and its response in Alpaca's template."),
        html.figure(figures / "curves.png", "Chapter 7's loop, once with the mask and once without. Dots: held-out instructions, "
                                            "answers only. The curves average different tokens, and only the dots compare."),
    )  # fmt: skip


def answers(job, anchor):
    blocks = []
    for one in job.results["evaluate"]["shown"]:
        kind = f"{one['family']}, a kind of task never trained on" if one["split"] == "test_families" else one["family"]
        blocks.append(html.paragraph(f"{one['instruction']} {one['input']}".strip(), "question"))
        blocks.append(html.paragraph(f"{kind}; a good answer: {one['reference']}", "note"))
        blocks.append(html.side_by_side([(BENDS[name], one["said"][name], one["accepted"][name]) for name in BENDS]))
    return html.section(
        anchor,
        "The bend",
        "One instruction, three models",
        html.paragraph("Held-out instructions, one of each kind, answered greedily. The base model sees the bare line and is "
                       "judged by its first line, as it never stops by itself; the other two see the template."),
        *blocks,
    )  # fmt: skip


def families(job, anchor):
    models = job.results["evaluate"]["models"]
    rows = [
        [family, *(models[name]["test"]["families"][family] for name in BENDS)]
        for family in models["sft"]["test"]["families"]
    ]
    unseen = [
        [f"{family} (never trained on)", *(models[name]["test_families"]["families"][family] for name in BENDS)]
        for family in models["sft"]["test_families"]["families"]
    ]
    return html.section(
        anchor,
        "Held-out instructions",
        "Task by task",
        html.figure(
            job.out / "evaluate" / "figures" / "families.png", "Share of held-out instructions answered acceptably."
        ),
        html.table(["kind of task", *BENDS.values()], rows + unseen),
    )


def exercise(job, anchor):
    models = job.results["evaluate"]["models"]
    rows = [
        [name, models[key]["boilerplate"], models[key]["test"]["all"]]
        for key, name in (("sft", "prompt masked"), ("sft_unmasked", "nothing masked"))
    ]
    texts = [(BENDS[key], text, None) for key in ("sft", "sft_unmasked") for text in models[key]["after a bare header"]]
    return html.section(
        anchor,
        "Exercise 2",
        "Mask against no mask",
        html.paragraph("Both models were given nothing but `### Instruction:` and sampled at temperature 1. Template boilerplate "
                       "means that the model wrote an instruction of its own and the header `### Response:` after it."),
        html.table(["", "template boilerplate", "held-out instructions accepted"], rows),
        html.side_by_side(texts),
    )  # fmt: skip

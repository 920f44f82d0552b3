"""Chapter 10, what constitutional training comes to, to look at: three figures, and a page with two constitutions."""

import numpy as np

from chapters.ch10.figures import BLUE, DIM, GOLD
from chapters.support import html
from chapters.support.figures import new_figure, save_figure

CONDUCT = {"obeyed": ("does the harm", "tab:red"), "evaded": ("evades, or gives no reason", DIM),
           "refused": ("refuses and says why", "tab:green")}  # fmt: skip


def draw_conduct(path, conduct):
    """conduct: {model: {"obeyed", "evaded", "refused", …}}: how requests to be refused are met, a bar a model."""
    figure, axes = new_figure(6.4, 0.8 + 0.5 * len(conduct))
    left = np.zeros(len(conduct))  # (models,)
    for key, (label, colour) in CONDUCT.items():
        share = np.array([found[key] for found in conduct.values()])  # (models,)
        axes.barh(list(conduct), share, left=left, color=colour, label=label, height=0.6)
        left += share
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="share of held-out requests to be refused")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return save_figure(figure, path)


def draw_reading(path, reading):
    """reading: {kind: what measure_reading found}: held-out principles as they stand, turned round, shuffled."""
    figure, axes = new_figure(6.4, 3.4)
    names = {"accuracy": ("as it stands", BLUE), "turned": ("turned round", GOLD), "shuffled": ("another's", DIM)}
    places = np.arange(len(reading))  # (kinds,)
    for i, (key, (label, colour)) in enumerate(names.items()):
        values = [found[key] for found in reading.values()]
        axes.bar(places + 0.27 * (i - 1), values, 0.25, color=colour, label=label)
        if key == "accuracy":
            low, high = zip(*(found["interval"] for found in reading.values()), strict=True)
            spread = np.abs(np.array([low, high]) - values)  # (2, kinds)
            axes.errorbar(places - 0.27, values, spread, fmt="none", ecolor="black", capsize=3)
    axes.axhline(0.5, color="black", linewidth=0.8, linestyle="--")
    axes.set_xticks(places, reading)
    axes.set(ylim=(0, 1.02), ylabel="which of two fits better: right")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=10)
    return save_figure(figure, path)


def draw_qualities(path, qualities):
    """qualities: {constitution: {quality: share}}: what the responses are like under each."""
    figure, axes = new_figure(7.2, 3.8)
    names = list(next(iter(qualities.values())))
    places, width = np.arange(len(names)), 0.8 / len(qualities)  # (qualities,)
    for i, ((label, found), colour) in enumerate(zip(qualities.items(), (DIM, BLUE, GOLD), strict=False)):
        shifted = places + width * (i - (len(qualities) - 1) / 2)  # (qualities,)
        axes.bar(shifted, list(found.values()), width, label=label, color=colour)
    axes.set_xticks(places, names, rotation=30, ha="right")
    axes.set(ylim=(0, 1.02), ylabel="share of responses")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10)
    return save_figure(figure, path)


# ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_page(path, texts, results, learned, qualities):
    """texts, results: {constitution's name: its principles, bend's result}, one or two; learned: teach's; qualities:
    {name: {quality: share}}.  Writes path, with the three figures of the folder beside it inside."""
    figures = path.parent / "figures"
    sections = {
        "texts": ("The constitutions", principles(texts)),
        "answers": ("Side by side", answers(results)),
        "change": ("What changed", change(results, qualities, figures)),
        "chain": ("Critique, revision", chain(results)),
        "reading": ("Does it read?", reading(learned, figures)),
    }
    title = "One assistant, two constitutions" if len(results) > 1 else "An assistant and its constitution"
    subtitle = "Principles in a text file, a small model that reads them, and an assistant that follows."
    footer = "Made by `python -m chapters.ch10.constitution`. Every response comes from a model; no person was asked."
    path.write_text(html.page(title, subtitle, sections, footer), encoding="utf-8")
    return path


def principles(texts):
    """The principles of each, those that stand in one constitution only marked with an arrow."""
    columns = []
    for name, lines in texts.items():
        others = [other for key, other in texts.items() if key != name]
        marked = [("→ " if any(line not in other for other in others) else "   ") + line for line in lines]
        columns.append((name, "\n".join(marked), None))
    return html.section("texts", "Constitutional AI", "What was written", html.side_by_side(columns))


def answers(results, n=12):
    """Held-out requests to be refused, answered by the SFT model and by the model of each constitution."""
    first = next(iter(results.values()))["answers"]
    blocks = []
    for i in range(min(n, len(first))):
        blocks.append(html.paragraph(first[i]["request"], "question"))
        columns = [("before", first[i]["SFT"], None)]
        columns += [(f"{name} constitution", result["answers"][i]["RL"], None) for name, result in results.items()]
        blocks.append(html.side_by_side(columns))
    text = "Held-out requests, about people never asked about in training, at temperature 1; the first ones drawn."
    return html.section("answers", "The same requests", "Side by side", html.paragraph(text), *blocks)


def change(results, qualities, figures):
    """How requests are met at every stop, and what the responses are like."""
    rows = []
    for name, result in results.items():
        for stop, found in result["conduct"].items():
            if stop != "SFT" or not rows:
                label = stop if stop == "SFT" else f"{stop}, {name}"
                rows.append([label, *(found[key] for key in ("obeyed", "evaded", "refused", "correct"))])
    head = ["", "does the harm", "evades or gives no reason", "refuses and says why", "plain tasks correct"]
    every = next(iter(qualities.values()))
    shares = [[quality, *(found[quality] for found in qualities.values())] for quality in every]
    return html.section(
        "change", "Measured", "What changed", html.table(head, rows),
        html.figures((figures / "conduct.png", "How held-out requests to be refused are met."),
                     (figures / "qualities.png", "What the responses to them are like.")),
        html.table(["a response …", *qualities], shares),
    )  # fmt: skip


def chain(results, n=4):
    """Drafts with their rounds of critique and revision, as the model wrote them."""
    blocks = []
    for name, result in results.items():
        changed = [one for one in result["revisions"] if one["rounds"][-1][-1] != one["draft"]]
        for one in changed[:n]:
            blocks.append(html.paragraph(f"{one['request']} ({name})", "question"))
            columns = [("draft", one["draft"], None)]
            columns += [(principle, f"{critique or '(nothing readable)'}\n\n→ {revision}", None)
                        for principle, critique, revision in one["rounds"]]  # fmt: skip
            blocks.append(html.side_by_side(columns))
    text = "Each draft is critiqued by a principle and revised, again and again; all of it written by a model."
    return html.section("chain", "The supervised phase", "Draft, critique, revision", html.paragraph(text), *blocks)


def reading(learned, figures):
    """The critic on held-out principles."""
    rows = [[name, found["accuracy"], f"{found['interval'][0]:.1%} to {found['interval'][1]:.1%}", found["turned"],
             found["shuffled"]] for name, found in learned["reading"].items()]  # fmt: skip
    head = ["held out", "right", "95% interval", "principle turned round", "another's principle (chance is 50%)"]
    text = (
        "Which of two responses fits a principle better? The principles are held out: no lesson holds the sentence, "
        "the pair of qualities, or the word; their parts are in other lessons. Turned round from prefer to avoid, the "
        "right answer is the other one; most sentences and pairs so turned are among the lessons."
    )
    return html.section("reading", "AI feedback", "Does it read?", html.paragraph(text), html.table(head, rows),
                        html.figure(figures / "reading.png", "Held-out principles."))  # fmt: skip

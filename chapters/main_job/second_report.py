"""The second bend's part of the main job's page of results; like `report`, it measures nothing."""

from chapters.support import html

LABELS = {"obeyed": "did the harm", "evaded": "evaded", "refused": "refused and said why"}


def summary(job):
    """What the second bend measured, as (what, value as text, note)."""
    if "rlhf" not in job.results:
        return []
    reward, tuned = job.results["reward"], job.results["rlhf"]
    before, (low, high) = tuned["before"], tuned["interval"]
    return [
        ("reward model", f"{reward['expected accuracy']:.1%}", f"of held-out comparisons right; the labeller's noise "
         f"allows {reward['ceiling']:.1%}: {reward['share of the ceiling']:.1%} of it"),
        ("  calibration error", f"{reward['calibration error']:.3f}", "mean distance between what it says and what is"),
        ("RLHF preferred to SFT", f"{tuned['wins']:.1%}",
         f"by the simulated judge, held out [{low:.1%}, {high:.1%}]; KL {tuned['kl']:.1f} nats a response"),
        ("  plain tasks done", f"{tuned['correct']:.1%}", f"before {before['correct']:.1%}"),
        ("  harm done", f"{tuned['obeyed']:.1%}", f"of requests to be refused; before {before['obeyed']:.1%}"),
        *by_constitution(job),
    ]  # fmt: skip


def by_constitution(job):
    """The summary's rows of the constitution's stage, if it has been run."""
    if "constitution" not in job.results:
        return []
    conduct = job.results["constitution"]["conduct"]
    before, after = conduct["before"], conduct["RL, default"]
    return [
        ("by the constitution", f"{after['refused']:.1%}",
         f"of requests to be refused are, with a reason; before {before['refused']:.1%}"),
        ("  harm done", f"{after['obeyed']:.1%}", f"before {before['obeyed']:.1%}"),
        ("  evaded", f"{after['evaded']:.1%}", f"or refused without a reason; before {before['evaded']:.1%}"),
        ("  plain tasks done", f"{after['correct']:.1%}", f"before {before['correct']:.1%}"),
    ]  # fmt: skip


def sections(job):
    """{anchor: (menu title, function (job, anchor) -> HTML)}, of what has been run."""
    found = {"reward": ("The reward model", reward_model), "rlhf": ("RLHF", rlhf),
             "constitution": ("The constitution", constitution), "side_by_side": ("Four models", four)}  # fmt: skip
    return {anchor: section for anchor, section in found.items() if anchor in job.results}


def reward_model(job, anchor):
    figures = job.out / "reward" / "figures"
    text = (
        "The labeller is a simulation: seven written rules score a response, and of two responses the one with the higher "
        "score is preferred, with a stated noise. The model never sees a score, only which of two was preferred. Because the "
        "noise is known, so is the best accuracy that anybody could reach."
    )
    return html.section(
        anchor,
        "Section 10.4 · comparisons",
        "A comparison becomes a number",
        html.paragraph(text),
        html.figure(figures / "calibration.png", "When it says that a response is preferred with probability p, is it?"),
        html.figure(figures / "tokens.png", "The reward, read at every token: three instructions, two responses to each."),
    )


def rlhf(job, anchor):
    found, figures = job.results["rlhf"], job.out / "rlhf" / "figures"
    sides = {"SFT": found["before"], "RLHF": found}
    rows = [
        ["the simulated judge's score, of 8", *(f"{one['judge']:.2f}" for one in sides.values())],
        ["the reward model's score", *(f"{one['reward']:.2f}" for one in sides.values())],
        ["plain tasks done correctly", *(one["correct"] for one in sides.values())],
        *([f"requests to be refused: {LABELS[how]}", *(one[how] for one in sides.values())] for how in LABELS),
        ["tokens a response", *(f"{one['length']:.1f}" for one in sides.values())],
    ]
    text = (
        "The assistant was tuned on demonstrations of mixed quality, and does what they did, as often as they did. PPO makes "
        f"likelier what the reward model likes. On held-out instructions the simulated judge prefers its response to the "
        f"SFT model's in {found['wins']:.1%} of cases, an equal score counted as half, at {found['kl']:.1f} nats a response."
    )
    return html.section(
        anchor,
        "Section 10.4 · the second bend",
        "Learning from preference",
        html.paragraph(text),
        html.table(["", *sides], rows, numbers={1, 2}),
        html.figure(figures / "watch.png", "What practitioners watch while PPO runs."),
        html.figure(figures / "path.png", "How far the policy went, and what the judge thought of it there."),
    )


def constitution(job, anchor):
    found = job.results["constitution"]
    figures = job.out / "constitution" / "figures"
    text = (
        "No comparison by the labeller says here that harm is to be refused: the principles below do. A critic, a model of "
        "ours that learned to read principles, revises the assistant's drafts by them, and says which of two responses fits "
        "them better; on its preferences a reward model is trained, and PPO does the rest."
    )
    rows = [[stop, *(one.get(how) for how in LABELS)] for stop, one in found["conduct"].items()]
    return html.section(
        anchor,
        "Section 10.4 · constitutional AI",
        "Principles, written down",
        html.paragraph(text),
        html.table(["the constitution"], [[line] for line in found["constitutions"]["default"]]),
        html.table(["held-out requests that ought to be refused", *LABELS.values()], rows),
        html.figures(
            (figures / "conduct.png", "How requests that ought to be refused are met, before and after each phase."),
            (figures / "reading.png", "Does the critic read? Held-out principles, whose parts were trained on."),
        ),
    )


def four(job, anchor):
    found = job.results["side_by_side"]
    rows = [
        [name, f"{one['reward']:+.2f}", f"{one['judge']:.2f}", "–" if one["kl"] is None else f"{one['kl']:.2f}"]
        for name, one in found["models"].items()
    ]
    head = ["drawn at temperature 1 (base 0.6), means", "reward model", "simulated judge, of 8", "KL from SFT, nats a response"]
    text = (
        "Held-out instructions, each answered by every model, greedily. Above each answer the reward model's score, and how "
        "much likelier the model finds it than the SFT model does: log π − log π_SFT, in nats."
    )
    blocks = []
    for one in found["shown"]:
        blocks.append(html.paragraph(f"{one['instruction']} {one['input']}".strip(), "question"))
        blocks.append(html.side_by_side([column(name, one["said"][name]) for name in found["models"]]))
    return html.section(anchor, "Both bends", "One instruction, every model", html.table(head, rows, numbers={1, 2, 3}),
                        html.paragraph(text), *blocks)  # fmt: skip


def column(name, answer):
    """One model's answer for html.side_by_side."""
    far = "" if answer["distance"] is None else f", {answer['distance']:+.1f} nats"
    return f"{name} · reward {answer['reward']:+.2f}{far}", answer["said"], answer["good"]

"""Section 10.4 in the report: rows of the summary, and functions that make the pieces of the page's sections."""

from typing import Any

from chapters.ch10.constitution.stage import reward_text
from chapters.interactive import Interactive
from chapters.interactive.models import MODELS
from chapters.interactive.ppo import PPO
from chapters.interactive.reward import REWARD
from chapters.main_job.first_bend import Job
from chapters.support import html
from chapters.world.judge import CONDUCTS, LABELS
from minigrad.serialization import CheckpointError


def summary(job: Job) -> list[tuple[str, str, str]]:
    """Section 10.4's measurements as (quantity, value, note) rows."""
    reward, tuned, conduct = job.results["reward"], job.results["rlhf"], job.results["constitution"]["conduct"]
    sft, (low, high) = tuned["before"], tuned["interval"]
    before, after = conduct["before"], conduct["RL, default"]
    accuracy = (
        f"of {reward['comparisons']:,} held-out comparisons right; averaged over the labeller's random choices "
        f"{reward['expected accuracy']:.1%}, {reward['share of the ceiling']:.1%} of the ceiling {reward['ceiling']:.1%}"
    )
    bag, best = reward["bag of words"], reward["best of n"]
    words = (
        f"of the same comparisons; the best of {best['n']} responses gains {best['bag of words']:+.2f} points of 8 by it, "
        f"{best['reward model']:+.2f} by the reward model"
    )
    wins = (
        f"by the simulated judge on held-out tasks, 95% interval [{low:.1%}, {high:.1%}]; "
        f"KL {tuned['kl']:.1f} nats per response"
    )
    return [
        ("reward model", f"{reward['accuracy']:.1%}", accuracy),
        ("  calibration error", f"{reward['calibration error']:.3f}", "mean gap between predicted and true probability"),
        ("  a bag of words", f"{bag['accuracy']:.1%}", words),
        ("RLHF preferred to SFT", f"{tuned['wins']:.1%}", wins),
        ("  plain tasks done", f"{tuned['correct']:.1%}", f"before {sft['correct']:.1%}"),
        *conduct_rows(sft, tuned),
        ("by the constitution", "", "on other held-out tasks"),
        ("  plain tasks done", f"{after['correct']:.1%}", f"before {before['correct']:.1%}"),
        *conduct_rows(before, after),
    ]


def conduct_rows(before: dict[str, float], after: dict[str, float]) -> list[tuple[str, str, str]]:
    """How a model met the harmful requests before and after its tuning."""
    notes = {
        "obeyed": ("harm done", "of harmful requests obeyed"),
        "evaded": ("evaded", "or refused without a reason"),
        "wrong reason": ("wrong reason", "refused for a reason about another request, person or thing"),
        "refused": ("right reason", "refused for the reason that belongs to the request"),
    }
    return [(f"  {name}", f"{after[key]:.1%}", f"{note}; before {before[key]:.1%}") for key, (name, note) in notes.items()]


def part(job: Job, interactive: Interactive, *figures: str) -> str:
    """An interactive part with what to try in it; figures for a reader without JavaScript, and for a job without its data."""
    still = "".join(figures)
    try:
        moving = interactive.fragment(job.out)
    except (OSError, ValueError, CheckpointError):  # a job of an earlier version, or responses that are all equal
        return still
    return f"{html.paragraph(interactive.lead)}{moving}<noscript>{still}</noscript>"


def reward_model(job: Job) -> list[str]:
    figures = job.out / "reward/figures"
    text = (
        "The labeller is a simulation: seven written rules score a response, and the labeller prefers the response with the "
        "higher score, with a stated noise. The reward model never sees a score, only which of two responses was preferred. "
        "Because the noise is known, so is the best possible accuracy. A bag of words, which sees neither the prompt nor the "
        "order of the words, learned from the same comparisons: only what the reward model adds to it can come from reading."
    )
    tokens = "The reward read at every token: three instructions, two responses to each."
    return [
        html.paragraph(text),
        html.figure(figures / "calibration.svg", "Predicted probability of preference against the observed share."),
        part(job, REWARD, html.figure(figures / "tokens.svg", tokens)),
    ]


def rlhf(job: Job) -> list[str]:
    tuned, figures = job.results["rlhf"], job.out / "rlhf/figures"
    sides = {"SFT": tuned["before"], "RLHF": tuned}
    rows = [
        ["simulated judge's score, out of 8", *(f"{side['judge']:.2f}" for side in sides.values())],
        *([f"  for {label}", *(f"{side['criteria'][key]:.2f}" for side in sides.values())] for key, label in LABELS.items()),
        ["reward model's score", *(f"{side['reward']:.2f}" for side in sides.values())],
        ["plain tasks done correctly", *(side["correct"] for side in sides.values())],
        *([f"harmful requests: {label}", *(side[key] for side in sides.values())] for key, label in CONDUCTS.items()),
        ["tokens per response", *(f"{side['length']:.1f}" for side in sides.values())],
    ]
    text = (
        "The assistant imitates good and bad demonstrations, in the proportions in which it saw them. PPO raises the "
        "probability of responses that the reward model scores highly. On held-out instructions the simulated judge prefers "
        f"the RLHF response to the SFT response in {tuned['wins']:.1%} of cases, counting a tie as half. The KL divergence is "
        f"{tuned['kl']:.1f} nats per response."
    )
    watch = html.figure(figures / "watch.svg", "The quantities to watch while PPO runs.")
    path = html.figure(figures / "path.svg", "The policy's distance from the SFT model, and the judge's score there.")
    return [html.paragraph(text), html.table(["", *sides], rows, numbers={1, 2}), part(job, PPO, path, watch)]


def constitution(job: Job) -> list[str]:
    result, figures = job.results["constitution"], job.out / "constitution/figures"
    text = (
        "Here the labeller does not teach the assistant to refuse harm; the principles below do. A critic, another of our "
        "models, has learned to read principles. It revises the assistant's drafts and says which of two responses fits a "
        "principle better. Its preferences train a reward model, and PPO does the rest. "
        f"{reward_text(result['reward']['default'])}"
    )
    rows = [[phase, *(shares[key] for key in CONDUCTS)] for phase, shares in result["conduct"].items()]
    return [
        html.paragraph(text),
        html.table(["the constitution"], [[line] for line in result["constitutions"]["default"]]),
        html.table(["held-out harmful requests", *CONDUCTS.values()], rows),
        html.figures(
            (figures / "conduct.svg", "Responses to harmful requests, before and after each phase."),
            (figures / "reading.svg", "The critic's accuracy on held-out principles, made of parts that it saw in training."),
        ),
    ]


def reflex(job: Job) -> list[str]:
    text = (
        "Every model on this page spends one pass on each token, however hard the token is. `python -m chapters.ch10.reflex` "
        "trains a model to follow trails of notes, where each step needs the result of the one before. It learns every trail "
        "when it writes its steps down, and only the shortest in a single pass. `python -m chapters.ch10.reflex_grpo` rewards "
        "right answers alone, and the model learns to write its steps down."
    )
    return [html.paragraph(text)]


def four_models(job: Job) -> list[str]:
    result = job.results["side_by_side"]
    rows = [
        [name, f"{model['reward']:+.2f}", f"{model['judge']:.2f}", "–" if model["kl"] is None else f"{model['kl']:.2f}"]
        for name, model in result["models"].items()
    ]
    head = ["means", "reward model", "simulated judge, out of 8", "KL from SFT, nats per response"]
    text = (
        "The answers are greedy. Beneath each stand the reward model's score and log π − log π_SFT in nats: how much more "
        "probable the answer is under this model than under the SFT model. The means are over responses sampled at "
        "temperature 1, the base model's at 0.6."
    )
    answers = []
    for row in result["shown"]:
        answers.append(html.paragraph(f"{row['instruction']} {row['input']}".strip(), "question"))
        answers.append(html.side_by_side(column(name, answer) for name, answer in row["said"].items()))
    return [part(job, MODELS, html.table(head, rows, numbers={1, 2, 3}), *answers), html.paragraph(text)]


def column(name: str, answer: dict[str, Any]) -> tuple[str, str, bool | None]:
    """One model's answer for html.side_by_side."""
    distance = "" if answer["distance"] is None else f", {answer['distance']:+.1f} nats"
    return f"{name} · reward {answer['reward']:+.2f}{distance}", answer["said"], answer["good"]


SECTIONS = {  # anchor: (menu title, line above the title, title, function)
    "reward_model": ("The reward model", "Section 10.4 · comparisons", "A comparison becomes a number", reward_model),
    "rlhf": ("RLHF", "Section 10.4 · the second bend", "Learning from preference", rlhf),
    "constitution": ("The constitution", "Section 10.4 · constitutional AI", "Principles, written down", constitution),
    "reflex": ("The reflex", "Section 10.5 · a fixed amount of thinking", "One pass, or many steps", reflex),
    "side_by_side": ("Four models", "Both bends", "One instruction, every model", four_models),
}

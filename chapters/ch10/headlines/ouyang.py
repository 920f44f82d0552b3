"""Ouyang et al. 2022: is a small aligned model preferred to a large model that is better in itself, but was never aligned?

Claim, from "Training language models to follow instructions with human feedback" (arXiv:2203.02155): labellers prefer
the responses of the 1.3B InstructGPT to those of the 175B GPT-3, with over 100 times its parameters (abstract; figure
1). InstructGPT 175B is preferred to GPT-3 175B 85 ± 3% of the time, and to GPT-3 with examples in its prompt 71 ± 4%
(section 1).

In miniature: the small model, after pretraining, demonstrations and PPO, against a base model with over 20 times its
parameters. Both base models read equally many tokens of the same pages. The simulated judge, without noise, compares one
response of each model to every held-out task; an equal score is half a win. The large model continues the question after three
examples, two correct answers and a refusal with a reason, and its first line counts. Beside it, the large model continues the
bare question. It samples at the temperature that is built into every assistant.

The large base model is a weak opponent. It hardly learns from examples in its prompt and mostly continues with another
question. And the judge pays one point of 8 more for a courteous answer than for a neutral one, but neither the pages nor the
examples are courteous. So two more comparisons stand beside these: one in which courtesy does not count, and one with the large
model after a short tuning on some 2,100 demonstrations, a twentieth of what the small model saw. The paper's figure 1 compares
all its models with a fully tuned large model, 175B SFT.

The comparison only means something if the large model is better in itself. Three measurements say so: its loss on validation
pages; its accuracy on the tokens of these pages that state a fact, such as the town in "Lara lives in Holt."; and the share of
plain tasks that it does correctly once both base models have had the same short tuning on demonstrations. The learning rate of
this tuning suits the large model; the small one learns best at four times that rate.

Reproduced if the small aligned model is preferred to the large model with examples more than half the time, the large model has
more than 20 times as many parameters (which restates the settings), and it leads the small base model in all three
measurements.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch02_dataset import EveryTokenOnce
from chapters.ch06_gpt import GPT
from chapters.ch07_train import TrainConfig, evaluate
from chapters.ch10.constitution.principles import Texts
from chapters.ch10.demonstrations import fine_tune
from chapters.ch10.headlines.experiment import TEMPERATURE, Bound, Experiment, GPTAndTokenizer, Measurement, Row, task_wins
from chapters.ch10.headlines.settings import FEW, tuning
from chapters.ch10.sft import Tasks, ask_base, graded_logits, respond
from chapters.support.batches import IGNORE_INDEX, by_length, pad_right
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.facts import PEOPLE
from chapters.world.judge import polite, weights
from chapters.world.requests import requests

SIZES = "small", "large"
FACTS = "large base's lead in fact tokens (percentage points)"
PLAIN = "large base's lead in plain tasks after the same tuning (percentage points)"


@dataclass
class OuyangSettings:
    """The comparison of the two base models."""

    examples: int = 3  # examples of good answers before the question; the last one refuses a harmful request
    page_batches: int = 40  # validation batches of eight rows for the page loss
    demonstrations: int = 6000  # demonstrations for the tuning of both base models
    supervise: TrainConfig = field(  # this tuning
        default_factory=lambda: tuning(steps=200, lr=2e-3, muon_lr=0.0075, min_lr=1e-4)
    )


QUICK = OuyangSettings(page_batches=2, demonstrations=20, supervise=FEW)


def measure(experiment: Experiment, settings: OuyangSettings) -> Measurement:
    """Compare the small policy with the large base model, and the two base models with each other."""
    model, tokenizer = experiment.base("large")
    texts = {
        "aligned": experiment.responses(*experiment.policy("small")),
        "with examples": prompted_answers(model, tokenizer, experiment.world, experiment.tests, settings.examples),
        "bare": bare_answers(model, tokenizer, experiment.tests, experiment.seed),
        "tuned": experiment.responses(*tuned(experiment, "large", settings)),
    }
    scores = {name: experiment.scores(answers) for name, answers in texts.items()}  # (N,) each
    plainly = {name: scores[name] - courtesy(experiment, answers) for name, answers in texts.items()}
    merits = {size: experiment.cached(f"ouyang_{size}", merits_of, size, settings) for size in SIZES}
    small, large = merits["small"], merits["large"]
    return Measurement(
        quantities={
            "preferred to the large base with examples": float(task_wins(scores["aligned"], scores["with examples"]).mean()),
            "preferred to the large base with examples, courtesy not counted": float(
                task_wins(plainly["aligned"], plainly["with examples"]).mean()
            ),
            "preferred to the bare large base": float(task_wins(scores["aligned"], scores["bare"]).mean()),
            "preferred to the large model after the short tuning": float(task_wins(scores["aligned"], scores["tuned"]).mean()),
            "size of the large model (times the small)": large["parameters"] / small["parameters"],
            "large base's lead in page loss (nats)": small["page loss"] - large["page loss"],
            FACTS: 100 * (large["fact tokens"] - small["fact tokens"]),
            PLAIN: 100 * (large["plain tasks"] - small["plain tasks"]),
        },
        details={
            "merits": merits,
            "judge's mean score": {name: float(values.mean()) for name, values in scores.items()},
            "responses": [
                {"task": one_line(task), **{name: answers[i] for name, answers in texts.items()}}
                for i, task in enumerate(experiment.tests[:8])
            ],
        },
    )


def courtesy(experiment: Experiment, texts: Texts) -> np.ndarray:
    """The judge's points for courtesy in the responses to the held-out tasks, (N,)."""
    pairs = zip(experiment.tests, texts, strict=True)
    return np.array([weights(task)[polite] * polite(experiment.world, task, text) for task, text in pairs])


# ── the large model's answers ────────────────────────────────────────────────────────────────────────────────────────


def bare_answers(model: GPT, tokenizer: Tokenizer, tasks: Tasks, seed: int) -> list[str]:
    """The first line of the base model's continuation of each question."""
    return first_lines(ask_base(model, tokenizer, tasks, temperature=TEMPERATURE, generator=mg.Generator(seed)))


def prompted_answers(model: GPT, tokenizer: Tokenizer, world: World, tasks: Tasks, examples: int) -> list[str]:
    """The first line of the base model's continuation after `examples` questions with good answers; the last one refuses."""
    plain = world.instructions("train", examples - 1, world.seed, ["town", "sum"])
    shown = "".join(f"{one_line(task)}\n{task.output}\n\n" for task in [*plain, *requests(world, "train", 1, world.seed)])
    prompts = [f"{shown}{one_line(task)}\n" for task in tasks]
    return first_lines(respond(model, tokenizer, prompts, temperature=TEMPERATURE, generator=mg.Generator(world.seed)))


def first_lines(texts: Texts) -> list[str]:
    return [text.strip().split("\n")[0] for text in texts]


def one_line(task: Instruction) -> str:
    return f"{task.instruction} {task.input}".strip()


# ── is the large model better in itself? ─────────────────────────────────────────────────────────────────────────────


def merits_of(experiment: Experiment, size: str, settings: OuyangSettings) -> dict[str, float]:
    """What a base model knows: its loss on validation pages, its accuracy on facts, and what it can do once it is tuned."""
    model, tokenizer = experiment.base(size)
    pages = EveryTokenOnce(experiment.pages[1], model.config.context, 8)
    return {
        "parameters": model.num_parameters(),
        "page loss": evaluate(model, pages, min(settings.page_batches, len(pages))),
        "fact tokens": fact_accuracy(model, tokenizer, pages_of(experiment.pages[1], tokenizer)),
        "plain tasks": experiment.correct(experiment.responses(*tuned(experiment, size, settings))),
    }


def tuned(experiment: Experiment, size: str, settings: OuyangSettings) -> GPTAndTokenizer:
    """A base model after a short tuning on demonstrations, the same for every size."""

    def train_into(run: Run) -> None:
        config = replace(settings.supervise, seed=experiment.seed, resume=True)
        fine_tune(*experiment.base(size), experiment.world, settings.demonstrations, config, run)

    return experiment.trained(f"ouyang_{size}_tuned", train_into)


# A paragraph about a person states each fact once, so no earlier sentence of the page gives it away. The answers "Yes, Lara
# lives in Holt." do not count, because the question does.
FACT = re.compile(rf"(?<!, )\b(?:{'|'.join(PEOPLE)}) (?:lives in|is a|likes|keeps a) (\w+)\.")


def pages_of(ids: np.ndarray, tokenizer: Tokenizer) -> list[list[int]]:
    """The whole pages in a text of token ids, each with the end-of-text token before it, as in pretraining."""
    ends = np.flatnonzero(ids == tokenizer.eos_id)
    return [ids[a:b].tolist() for a, b in zip(ends, ends[1:], strict=False)]


def fact_tokens(page: Sequence[int], tokenizer: Tokenizer) -> np.ndarray:
    """Whether each token of a page states a fact: (T,) bool."""
    pieces = tokenizer.pieces(page)
    ends = np.cumsum([len(piece) for piece in pieces])  # (T,)
    starts = ends - [len(piece) for piece in pieces]  # (T,)
    text = b"".join(pieces).decode()
    states = np.zeros(len(page), bool)
    for match in FACT.finditer(text):
        states |= (starts < match.end(1)) & (ends > match.start(1))
    return states


def fact_accuracy(model: GPT, tokenizer: Tokenizer, pages: Sequence[Sequence[int]]) -> float:
    """How often the likeliest token is right where the pages state a fact."""
    rows, facts = [], []
    for page in pages:
        row = page[: model.config.context + 1]
        states = fact_tokens(row, tokenizer)[1:]  # (T,)
        if states.any():
            rows.append(row[:-1])
            facts.append(np.where(states, row[1:], IGNORE_INDEX).tolist())
    right: list[np.ndarray] = []
    with mg.no_grad():
        for places, inputs in by_length(rows, 32, tokenizer.eos_id):
            targets = pad_right([facts[i] for i in places], IGNORE_INDEX)  # (B, T)
            logits, expected, _ = graded_logits(model, mg.tensor(inputs), targets)  # (n, V), (n,)
            right.append(logits.numpy().argmax(axis=1) == expected.numpy())
    return float(np.concatenate(right).mean())


OUYANG = Row(
    name="ouyang",
    paper="Ouyang et al. 2022",
    arxiv="2203.02155",
    claim="1.3B InstructGPT preferred to 175B GPT-3 (abstract); at 175B, preferred 85 ± 3% of the time, and 71 ± 4% if GPT-3 "
    "sees examples (section 1)",
    criterion=(
        Bound("preferred to the large base with examples", above=0.5),
        Bound("size of the large model (times the small)", above=20.0),
        Bound("large base's lead in page loss (nats)", above=0.0),
        Bound(FACTS, above=0.0),
        Bound(PLAIN, above=0.0),
    ),
    sizes=("small", "large"),
    minutes=4,
    settings=OuyangSettings(),
    quick=QUICK,
    measure=measure,
)

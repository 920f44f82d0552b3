"""A base model's loss curve, and what the model wrote at each checkpoint (chapter 7)."""

from pathlib import Path
from typing import Any

from chapters.interactive import Interactive
from chapters.support.figures import running_mean
from chapters.support.generations import read_generations
from chapters.support.run_folder import History, Run
from kernels.terminal import visible

POINTS = 600  # of the curve; more would not show


def training_data(run: Path) -> dict[str, Any]:
    """The losses of pretraining and the generations at its checkpoints.

    Raises:
        ValueError: if the run recorded no generations, because it is older than that file.
    """
    folder = Run(run / "pretrain")
    history, generations = History.read(folder), read_generations(folder)
    if not (history.losses and history.validation_losses and generations):
        raise ValueError(f"{folder.folder}: expected generations.jsonl of a trained model, got none; run the main job again")
    every = max(1, len(history.losses) // POINTS)
    curves = (list(zip(history.steps, losses, strict=True)) for losses in (history.losses, running_mean(history.losses)))
    training, mean = ([(step, round(loss, 4)) for step, loss in curve[::every]] for curve in curves)
    return {
        "training": training,
        "mean": mean,
        "validation": list(zip(history.validation_steps, history.validation_losses, strict=True)),
        "checkpoints": [{"step": record["step"], "texts": readable(record["generations"])} for record in generations],
    }


def readable(generations: dict[str, str]) -> list[tuple[str, str]]:
    """(prompt, continuation) pairs on one line each, without control characters."""
    return [(on_a_line(prompt), on_a_line(text)) for prompt, text in generations.items()]


def on_a_line(text: str) -> str:
    """The text with "↵" for newlines and a symbol for every control character.

    >>> on_a_line("a stew.\\n\\nThis is")
    'a stew. ↵ This is'
    """
    return visible(" ↵ ".join(filter(None, text.split("\n"))))


TRAINING = Interactive(
    "training",
    "A base model learns to write",
    "This is the loss of your run's base model, on a logarithmic axis, and what the model wrote at each checkpoint. It always "
    "takes the likeliest token, so only training changes the texts. Play it. From which step does the model write sentences, "
    "stay with Lara, and turn the list round? What does the loss do there?",
    training_data,
)

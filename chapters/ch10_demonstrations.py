"""Chapter 10, before the second bend: instruction tuning on demonstrations of mixed quality, as real ones are.

    python -m chapters.ch10_demonstrations --base runs/main/pretrain     # into runs/assistant

What this file teaches: nothing in instruction tuning tells a good demonstration from a bad one. Of those that stand
here for hurried writers some are courteous and some rude, some ramble, and some help to open a lock that is not theirs
(`chapters.world.requests`); the model learns to do each as often as they did. This is the SFT model that section 10.4's
second bend starts from (Ouyang et al. 2022, arXiv:2203.02155, step 1).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import minigrad as mg
from chapters import ch10_sft
from chapters.ch07_train import Run, TrainConfig, load_model
from chapters.command import command
from chapters.world import World
from chapters.world.judge import Judge, conducts, correctness, mean_score
from chapters.world.requests import demonstrations, everything


def fine_tune(model, tokenizer, world, n, config, run, held_out=()):
    """Chapter 10's fine_tune on n demonstrations of mixed quality; returns its (History, examples skipped)."""
    pairs = demonstrations(world, everything(world, "train", n, config.seed), config.seed)
    tasks = [replace(task, output=response) for task, response in pairs]
    return ch10_sft.fine_tune(model, tokenizer, tasks, config, run, held_out=held_out)


def measure(judge, tasks, responses):
    """What the simulated judge finds in one response a task: its mean score, the share of plain tasks done correctly,
    and how requests to be refused were met."""
    return {
        "judge": mean_score(judge, tasks, responses),
        "correct": correctness(judge.world, tasks, responses),
        **conducts(tasks, responses),
    }


def described(found):
    """What `measure` found, as one line."""
    shares = ", ".join(f"{name} {value:.1%}" for name, value in found.items() if name != "judge")
    return f"the simulated judge's mean score {found['judge']:.3f} of 8; {shares}"


@dataclass
class Settings:
    """Fine-tune a base model on demonstrations of mixed quality: where the second bend starts."""

    base: Path = Path("runs/main/pretrain")  # the run folder with the base model
    run: Path = Path("runs/assistant")  # the folder for everything
    examples: int = 20000  # demonstrations
    held_out: int = 320  # tasks to ask afterwards
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=1000, batch_size=32, lr=6e-4, min_lr=3e-5, warmup_steps=20, weight_decay=0.0, beta2=0.99
        )
    )
    seed: int = 0  # of the world and of everything random
    quick: bool = False  # fewer examples and steps


QUICK = {"examples": 2000, "held_out": 64, "training": TrainConfig(steps=120, batch_size=16, lr=1e-3, warmup_steps=10)}


def main(settings):
    model, tokenizer = load_model(settings.base)
    world = World(settings.seed)
    run = Run(settings.run)
    fine_tune(model, tokenizer, world, settings.examples, replace(settings.training, seed=settings.seed), run)
    tasks = everything(world, "test", settings.held_out, settings.seed + 1)
    responses = ch10_sft.ask(model, tokenizer, tasks, temperature=1.0, generator=mg.Generator(settings.seed))
    pages = [f"{t.instruction} {t.input}".strip() + f"\n  -> {said}" for t, said in zip(tasks, responses, strict=True)]
    (run / "samples.txt").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print("\n\n".join(pages[:8]))
    print(f"\nheld out, sampled at temperature 1: {described(measure(Judge(world), tasks, responses))}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

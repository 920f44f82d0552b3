"""Chapter 10, before the second bend: instruction tuning on demonstrations of mixed quality, as people write them.

    python -m chapters.ch10.demonstrations       # from the main job's base model, into runs/assistant

Instruction tuning cannot tell a good demonstration from a bad one. Some of the simulated writers are courteous, some are
rude, some ramble, some misread the question, and some help to open a lock that belongs to someone else
(chapters/world/requests.py). The model learns to behave in each of these ways as often as the writers did. The result is the
SFT model, from which the second bend starts (Ouyang et al. 2022, arXiv:2203.02155, step 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import GPT, load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10 import sft
from chapters.support.command import InShards, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import CONDUCTS, Judge, conduct_shares, correctness, mean_score
from chapters.world.requests import demonstrations, mixed_tasks


class RehearsalBatches:
    """Batches of a new task, with a batch of the old data at every `every`-th step.

    The training tasks name only some of the people, and long training on them makes a small model forget all other names.
    A batch of pretraining text now and then prevents this. Ouyang et al. 2022 do the same in PPO (PPO-ptx).

    new, old: batches of the new task and of the old data, each with a `signature`.
    """

    def __init__(self, new: Any, old: NextTokenBatches, every: int = 3):
        if every < 2:
            raise ValueError(f"RehearsalBatches: expected every >= 2, got {every}; at most every second batch can rehearse")
        self.new, self.old, self.every = new, old, every

    def batch(self, step: int) -> tuple[np.ndarray, ...]:
        period, position = divmod(step, self.every)
        if position == self.every - 1:
            return self.old.batch(period)
        return self.new.batch(period * (self.every - 1) + position)

    @property
    def signature(self) -> str:
        return f"{self.new.signature}; every {self.every}: {self.old.signature}"


def pretraining_batches(
    world: World, tokenizer: Tokenizer, context: int, batch_size: int, seed: int, n_bytes: int = 600_000
) -> NextTokenBatches:
    """Chapter 2's next-token batches of the world's documents, as in pretraining."""
    pages = world.documents(n_bytes, seed)
    ids = [i for page in pages for i in (*tokenizer.encode(page), tokenizer.eos_id)]
    return NextTokenBatches(np.array(ids), context, batch_size, seed)


def sharpen(model: GPT, temperature: float) -> None:
    """Build a sampling temperature into the weights, in place: sampling at 1 then equals sampling at `temperature` before.

    A model this small gives a few percent of its probability to nonsense tokens, so we sample from it below temperature 1.
    But RLHF has to sample from the very distribution that it trains and compares by KL. The logits are linear in the output
    of the last norm, so dividing that norm's parameters divides the logits.
    """
    check_temperature(temperature)
    for parameter in model.ln_f.parameters():
        parameter.array /= np.float32(temperature)
        parameter.changed()


def check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")


def tune_with_rehearsal(
    model: GPT, tokenizer: Tokenizer, world: World, tasks: sft.Tasks, config: TrainConfig, run: Run, every: int = 3
) -> None:
    """Fine-tune a model on tasks, in place; one batch in `every` is pretraining text, against forgetting (0: none)."""
    context = model.config.context
    new = sft.InstructionBatches(tasks, tokenizer, context, config.batch_size, config.seed)
    old = pretraining_batches(world, tokenizer, context, max(config.batch_size // 2, 1), config.seed) if every else None
    train(model, RehearsalBatches(new, old, every) if old else new, config, run, loss_fn=sft.response_loss)


def fine_tune(
    model: GPT,
    tokenizer: Tokenizer,
    world: World,
    n: int,
    config: TrainConfig,
    run: Run,
    rehearse: int = 3,
    temperature: float = 0.6,
) -> None:
    """Train the model in place on n demonstrations, build the sampling temperature into it, and save it in `run`.

    rehearse: one batch in this many is pretraining text (0: none).
    """
    check_temperature(temperature)  # before the training, not after it
    pairs = demonstrations(world, mixed_tasks(world, "train", n, config.seed), config.seed)
    tasks = [replace(task, output=response) for task, response in pairs]
    tune_with_rehearsal(model, tokenizer, world, tasks, config, run, rehearse)
    sharpen(model, temperature)
    save_model(run, model, tokenizer, "instruction")


def measure(judge: Judge, tasks: sft.Tasks, responses: Sequence[str]) -> dict[str, Any]:
    """Judge one response to each task: mean score, share of plain tasks done correctly, conduct on harmful requests."""
    return {
        "judge": mean_score(judge, tasks, responses),
        "correct": correctness(judge.world, tasks, responses),
        **conduct_shares(tasks, responses),
    }


def measurement_text(measured: dict[str, Any]) -> str:
    """A result of `measure` on one line."""
    labels = {"correct": "plain tasks correct", **CONDUCTS}
    shares = ", ".join(f"{label} {measured[key]:.1%}" for key, label in labels.items() if key in measured)
    return f"the simulated judge's mean score {measured['judge']:.3f} of 8; {shares}"


@dataclass
class Settings(InShards):
    """Fine-tune a base model on demonstrations of mixed quality, to get the SFT model."""

    base: Path = Path("runs/main/pretrain")  # run folder of the base model
    run: Path = Path("runs/assistant")  # run folder for all output
    examples: int = 15000  # demonstrations
    rehearse: int = 3  # one batch in this many is pretraining text, against forgetting (0: none)
    temperature: float = 0.6  # sampling temperature to build into the weights at the end
    held_out: int = 320  # held-out tasks to answer afterwards
    # A quarter of pretraining's learning rate. At this rate a model without rehearsal forgets names that no task mentions.
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=650, batch_size=32, lr=1.5e-3, muon_lr=0.0075, min_lr=7.5e-5, warmup_steps=20, weight_decay=0.0, beta2=0.99
        )
    )
    world: int = 0  # seed of the world
    seed: int = 0  # random seed
    quick: bool = False  # fewer examples and steps


QUICK = {"examples": 2000, "held_out": 64, "training": TrainConfig(steps=120, batch_size=16, lr=1e-3, warmup_steps=10)}


def main(settings: Settings) -> None:
    at_least_one(settings, "examples", "held_out")
    model, tokenizer = load_model(settings.base)
    world = World(settings.world)
    run = Run(settings.run)
    config = replace(settings.training, seed=settings.seed)
    fine_tune(model, tokenizer, world, settings.examples, config, run, settings.rehearse, settings.temperature)
    tasks = mixed_tasks(world, "test", settings.held_out, settings.seed + 1)
    responses = sft.ask(model, tokenizer, tasks, temperature=1.0, generator=mg.Generator(settings.seed))
    pages = [f"{t.instruction} {t.input}".strip() + f"\n  -> {response}" for t, response in zip(tasks, responses, strict=True)]
    (run / "samples.txt").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print("\n\n".join(pages[:8]))
    print(f"\nheld out, sampled at temperature 1: {measurement_text(measure(Judge(world), tasks, responses))}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

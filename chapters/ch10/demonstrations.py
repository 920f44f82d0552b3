"""Chapter 10, before the second bend: instruction tuning on demonstrations of mixed quality, such as people write.

    python -m chapters.ch10.demonstrations       # from the main job's base model, into runs/assistant

Instruction tuning cannot tell a good demonstration from a bad one. Some of the simulated writers are courteous and some
rude, some ramble, and some help to open a lock that belongs to someone else (chapters/world/requests.py). The model learns
to behave in each of these ways as often as the writers did. The result is the SFT model, where the second bend starts
(Ouyang et al. 2022, arXiv:2203.02155, step 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import GPT, load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10 import sft
from chapters.support.batches import Batches
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.run_folder import History, Run
from chapters.world import Instruction, World
from chapters.world.judge import Judge, conduct_shares, correctness, mean_score
from chapters.world.requests import demonstrations, mixed_tasks


def signature(batches: Batches) -> str:
    """Text that tells one data set from another; the type's name where the batches have none."""
    return getattr(batches, "signature", type(batches).__name__)


class RehearsalBatches:
    """Batches of a new task, with a batch of the old data at every `every`-th step.

    Long training on the people of the training split alone makes a small model forget all other names (section 10.2: it
    presses too hard). A batch of pretraining text now and then prevents this. Ouyang et al. 2022 do the same in PPO (PPO-ptx).
    """

    def __init__(self, new: Batches, old: Batches, every: int = 3):
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
        return f"{signature(self.new)}; every {self.every}: {signature(self.old)}"


def pretraining_batches(
    world: World, tokenizer: Any, context: int, batch_size: int, seed: int, n_bytes: int = 600_000
) -> NextTokenBatches:
    """Chapter 2's next-token batches of the world's documents, as in pretraining."""
    pages = world.documents(n_bytes, seed)
    ids = [i for page in pages for i in (*tokenizer.encode(page), tokenizer.eos_id)]
    return NextTokenBatches(np.array(ids), context, batch_size, seed)


def sharpen(model: GPT, temperature: float) -> None:
    """Build a sampling temperature into the weights, in place: temperature 1 then means the old `temperature`.

    So small a model gives a few percent of its probability to nonsense tokens, so we sample from it below temperature 1. But
    RLHF samples from, trains and compares by KL one and the same distribution. The logits are linear in the output of the
    last norm, so dividing that norm's parameters divides the logits.
    """
    check_temperature(temperature)
    for parameter in model.ln_f.parameters():
        parameter.array /= np.float32(temperature)
        parameter.changed()


def check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature: expected a number above 0, got {temperature}")


def tune_with_rehearsal(
    model: GPT, tokenizer: Any, world: World, tasks: Sequence[Instruction], config: TrainConfig, run: Run, rehearse: int = 3
) -> History:
    """Fine-tune the model in place on the tasks' outputs; one batch in `rehearse` is pretraining text (0: none)."""
    context = model.config.context
    batches: Batches = sft.InstructionBatches(tasks, tokenizer, context, config.batch_size, config.seed)
    if rehearse:
        old = pretraining_batches(world, tokenizer, context, max(config.batch_size // 2, 1), config.seed)
        batches = RehearsalBatches(batches, old, rehearse)
    return train(model, batches, config, run)


def fine_tune(
    model: GPT,
    tokenizer: Any,
    world: World,
    n: int,
    config: TrainConfig,
    run: Run,
    rehearse: int = 3,
    temperature: float = 0.6,
) -> History:
    """Train the model in place on n demonstrations with chapter 7's loop, sharpen it, and save it in `run`.

    rehearse: one batch in this many is pretraining text (0: none).  temperature: see `sharpen`.
    """
    check_temperature(temperature)  # before the training, not after it
    pairs = demonstrations(world, mixed_tasks(world, "train", n, config.seed), config.seed)
    tasks = [replace(task, output=response) for task, response in pairs]
    history = tune_with_rehearsal(model, tokenizer, world, tasks, config, run, rehearse)
    sharpen(model, temperature)
    save_model(run, model, tokenizer)
    return history


def measure(judge: Judge, tasks: Sequence[Instruction], responses: Sequence[str]) -> dict[str, Any]:
    """Judge one response for each task: mean score, share of plain tasks done, conduct on harmful requests."""
    return {
        "judge": mean_score(judge, tasks, responses),
        "correct": correctness(judge.world, tasks, responses),
        **conduct_shares(tasks, responses),
    }


def measurement_text(measured: dict[str, Any]) -> str:
    """A result of `measure` on one line."""
    shares = ", ".join(f"{name} {value:.1%}" for name, value in measured.items() if name != "judge")
    return f"the simulated judge's mean score {measured['judge']:.3f} of 8; {shares}"


@dataclass
class Settings(OnDevice):
    """Fine-tune a base model on demonstrations of mixed quality, as the start of the second bend."""

    base: Path = Path("runs/main/pretrain")  # run folder of the base model
    run: Path = Path("runs/assistant")  # folder for all results
    examples: int = 15000  # demonstrations
    rehearse: int = 3  # one batch in this many is pretraining text, against forgetting (0: none)
    temperature: float = 0.6  # sampling temperature to build into the weights at the end
    held_out: int = 320  # held-out tasks to answer afterwards
    # Half of pretraining's learning rate. Without rehearsal, tuning at this rate would forget every name that it does not
    # mention.
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=700, batch_size=32, lr=2e-3, min_lr=1e-4, warmup_steps=20, weight_decay=0.0, beta2=0.99
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

"""Chapter 10, before the second bend: instruction tuning on demonstrations of mixed quality, as real ones are.

    python -m chapters.ch10.demonstrations       # from the main job's base model, into runs/assistant

What this file teaches: nothing in instruction tuning tells a good demonstration from a bad one. Of those that stand
here for hurried writers some are courteous and some rude, some ramble, and some help to open a lock that is not theirs
(`chapters.world.requests`); the model learns to do each as often as they did. This is the SFT model that section 10.4's
second bend starts from (Ouyang et al. 2022, arXiv:2203.02155, step 1).
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10 import sft
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import Judge, conduct_shares, correctness, mean_score
from chapters.world.requests import demonstrations, mixed_tasks


class RehearsalBatches:
    """Batches of a new task, and as every `every`-th batch one of what was learned before.

    So long a training on the people of the training side alone makes a small model forget the names of all others:
    it presses too hard, as section 10.2 puts it. A page of the old text now and then keeps them (Ouyang et al. 2022 do
    the same in PPO, and call it PPO-ptx).
    """

    def __init__(self, new, old, every=3):
        if every < 2:
            raise ValueError(f"of the batches at most every second one can be a rehearsal, got every={every}")
        self.new, self.old, self.every = new, old, every

    def batch(self, step):
        rounds, place = divmod(step, self.every)
        if place == self.every - 1:
            return self.old.batch(rounds)
        return self.new.batch(rounds * (self.every - 1) + place)

    @property
    def signature(self):
        return f"{self.new.signature}; every {self.every}: {getattr(self.old, 'signature', type(self.old).__name__)}"


def pretraining_batches(world, tokenizer, context, batch_size, seed, n_bytes=600_000):
    """Chapter 2's batches of the world's documents, as pretraining had them."""
    pages = world.documents(n_bytes, seed)
    ids = [i for page in pages for i in (*tokenizer.encode(page), tokenizer.eos_id)]
    return NextTokenBatches(np.array(ids), context, batch_size, seed)


def sharpen(model, temperature):
    """Build chapter 8's temperature into the weights: from now on the model drawn from at temperature 1 is the model
    that it was, drawn from at `temperature`.  In place.

    So small a model gives some percent of its probability to tokens that make no sense, and everybody draws from such
    models below temperature 1. The second bend needs one distribution that draws, is compared (KL) and is trained;
    built in, it is the model's own. The logits are linear in what the last norm gives, so that is where to divide.
    """
    check_temperature(temperature)
    for parameter in model.ln_f.parameters():
        parameter.array /= np.float32(temperature)
        parameter.changed()


def check_temperature(temperature):
    if not temperature > 0:
        raise ValueError(f"the temperature to build in must be above 0, got {temperature}.")


def fine_tune(model, tokenizer, world, n, config, run, rehearse=3, temperature=0.6):
    """Chapter 7's loop on n demonstrations of mixed quality, every `rehearse`-th batch one of pretraining's (0 for
    none), then `sharpen`: trains model in place, saves it in run.  Returns the History."""
    check_temperature(temperature)  # now, not after the training
    pairs = demonstrations(world, mixed_tasks(world, "train", n, config.seed), config.seed)
    tasks = [replace(task, output=response) for task, response in pairs]
    context = model.config.context
    batches = sft.InstructionBatches(tasks, tokenizer, context, config.batch_size, config.seed)
    if rehearse:
        old = pretraining_batches(world, tokenizer, context, max(config.batch_size // 2, 1), config.seed)
        batches = RehearsalBatches(batches, old, rehearse)
    history = train(model, batches, config, run)
    sharpen(model, temperature)
    save_model(run, model, tokenizer)
    return history


def measure(judge, tasks, responses):
    """What the simulated judge finds in one response a task: its mean score, the share of plain tasks done correctly,
    and how requests to be refused were met."""
    return {
        "judge": mean_score(judge, tasks, responses),
        "correct": correctness(judge.world, tasks, responses),
        **conduct_shares(tasks, responses),
    }


def measurement_text(found):
    """What `measure` found, as one line."""
    shares = ", ".join(f"{name} {value:.1%}" for name, value in found.items() if name != "judge")
    return f"the simulated judge's mean score {found['judge']:.3f} of 8; {shares}"


@dataclass
class Settings(OnDevice):
    """Fine-tune a base model on demonstrations of mixed quality: where the second bend starts."""

    base: Path = Path("runs/main/pretrain")  # the run folder with the base model
    run: Path = Path("runs/assistant")  # the folder for everything
    examples: int = 15000  # demonstrations
    rehearse: int = 3  # every so-many-th batch is one of pretraining's, so that nothing is forgotten; 0 for none
    temperature: float = 0.6  # of chapter 8, built into the weights at the end
    held_out: int = 320  # tasks to ask afterwards
    # Half of pretraining's rate. So hot a tuning without rehearsal would forget every name that it does not mention.
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=700, batch_size=32, lr=2e-3, min_lr=1e-4, warmup_steps=20, weight_decay=0.0, beta2=0.99
        )
    )
    world: int = 0  # the seed of the world whose tasks are asked
    seed: int = 0  # of everything random
    quick: bool = False  # fewer examples and steps


QUICK = {"examples": 2000, "held_out": 64, "training": TrainConfig(steps=120, batch_size=16, lr=1e-3, warmup_steps=10)}


def main(settings):
    at_least_one(settings, "examples", "held_out")
    model, tokenizer = load_model(settings.base)
    world = World(settings.world)
    run = Run(settings.run)
    config = replace(settings.training, seed=settings.seed)
    fine_tune(model, tokenizer, world, settings.examples, config, run, settings.rehearse, settings.temperature)
    tasks = mixed_tasks(world, "test", settings.held_out, settings.seed + 1)
    responses = sft.ask(model, tokenizer, tasks, temperature=1.0, generator=mg.Generator(settings.seed))
    pages = [f"{t.instruction} {t.input}".strip() + f"\n  -> {said}" for t, said in zip(tasks, responses, strict=True)]
    (run / "samples.txt").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print("\n\n".join(pages[:8]))
    print(f"\nheld out, sampled at temperature 1: {measurement_text(measure(Judge(world), tasks, responses))}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

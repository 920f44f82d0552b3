"""Chapter 10, the headlines in miniature: what the papers behind the second bend are known for, each tried here.

    python -m chapters.ch10.headlines                      # after python -m chapters, whose models it begins with
    python -m chapters.ch10.headlines --only wei gao       # some rows alone

What this file teaches: how to read a headline. Behind each stands a claim, a comparison and a judge; each function in
`chapters.headlines` says what the paper measured and where, does the same with our models, our little world and our
simulated judge, and states beforehand what would count as having reproduced it. Nothing is tuned to the held-out tasks,
and a row that does not come out says so. What is shown is a direction, never a size: these models are ten thousand
times smaller than the smallest in the papers, and the judge is a page of rules.

Every model and every row is written into the run's folder as soon as it is there: the same command goes on where it was
stopped. It ends in runs/headlines/table.md and figures/headlines.png. All of it takes about 28 minutes of one core's
time.
"""

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chapters.ch07_train import TrainConfig
from chapters.ch10.constitution.stage import PLANS, Plan
from chapters.ch10.headlines.bai import bai
from chapters.ch10.headlines.christiano import christiano
from chapters.ch10.headlines.experiment import Headline, Stand
from chapters.ch10.headlines.figure import draw, table
from chapters.ch10.headlines.gao import gao
from chapters.ch10.headlines.ouyang import ouyang
from chapters.ch10.headlines.stiennon import stiennon
from chapters.ch10.headlines.taori import taori
from chapters.ch10.headlines.wei import wei
from chapters.ch10.rlhf import PPOConfig
from chapters.ch10.rloo import RLOOConfig
from chapters.support.command import OnDevice, command
from minigrad.serialization import write_atomically

ROWS = {row.__name__: row for row in (wei, gao, taori, christiano, bai, stiennon, ouyang)}


def tuning(**changes):
    """A TrainConfig as fine-tuning has it everywhere in chapter 10: gentle, without weight decay."""
    return TrainConfig(**{"batch_size": 16, "warmup_steps": 20, "weight_decay": 0.0, "beta2": 0.99, **changes})


def later(make, **arguments):
    return field(default_factory=lambda: make(**arguments))


@dataclass
class Settings(OnDevice):
    """Seven papers' headline results in miniature: one table, one figure."""

    base: Path = Path("runs/main/pretrain")  # the run folder of the base model
    sft: Path = Path("runs/main/assistant")  # of the SFT model
    reward: Path = Path("runs/main/reward")  # of the reward model
    policies: Path | None = None  # where `ch10/rlhf --seeds 3` left its policies, to begin with them; else trained here
    constituted: Path | None = None  # likewise where `ch10/constitution` left its models
    run: Path = Path("runs/headlines")  # the folder for everything
    only: tuple[str, ...] = tuple(ROWS)  # which rows
    seed: int = 0  # of the world and of everything shared
    seeds: tuple[int, ...] = (0, 1, 2)  # of Wei's tuned models; Taori's teacher is the policy of the first
    small_seeds: tuple[int, ...] = (0, 1, 2)  # of the small models in Ouyang's and Stiennon's rows
    student_seeds: tuple[int, ...] = (0, 1)  # of Taori's students
    held_out: int = 320  # held-out tasks to compare models on
    quick: bool = False  # far too little of everything, to see that it runs

    # What several rows share
    tasks: int = 4000  # instructions to draw prompts from
    demonstrations: int = 20000  # of mixed quality, for supervised models
    corpus_bytes: int = 16_000_000  # pages to pretrain on, as the main job has them
    # The main job's model has 0.94M parameters: 11 times the small one, 5 times the medium one. The large one has 51 times
    # as many as the small one.
    small: dict = later(dict, n_layer=2, n_head=4, d_model=40, context=128, init_std=0.05)  # 0.086M parameters
    medium: dict = later(dict, n_layer=2, n_head=4, d_model=64, context=128, init_std=0.05)  # 0.17M parameters
    large: dict = later(dict, n_layer=4, n_head=6, d_model=288, context=128, init_std=0.04)  # 4.3M parameters
    pretrain_small: TrainConfig = later(
        TrainConfig, steps=7000, batch_size=8, lr=5e-3, min_lr=4e-4, beta2=0.99, eval_every=1750, eval_batches=40
    )
    pretrain_medium: TrainConfig = later(
        TrainConfig, steps=4400, batch_size=8, lr=4e-3, min_lr=4e-4, beta2=0.99, eval_every=1100, eval_batches=40
    )
    pretrain_large: TrainConfig = later(
        TrainConfig, steps=2400, batch_size=8, lr=2e-3, min_lr=1.5e-4, beta2=0.99, eval_every=400, eval_batches=40
    )
    supervise: TrainConfig = later(tuning, steps=700, batch_size=32, lr=2e-3, min_lr=1e-4)  # of small and medium ones
    compared: int = 2500  # instructions whose responses by a small assistant are compared, four to each
    rewarding: TrainConfig = later(tuning, steps=375, lr=2e-3, min_lr=1e-4)  # of the small reward models
    # Of the small policies. Their reward model is soon outwitted: a dearer divergence, and less of it.
    ppo_small: PPOConfig = later(PPOConfig, kl_coefficient=0.4, kl_target=2.0)
    ppo: PPOConfig = field(default_factory=PPOConfig)  # of the main job's: Taori's teacher

    # Wei
    families: tuple[int, ...] = (1, 2, 4, 8, 16)  # how many families to train on
    unseen: int = 120  # tasks of families never trained on
    instructing: TrainConfig = later(tuning, steps=200, lr=6e-4, min_lr=6e-5)

    # Taori
    seed_tasks: int = 175  # that the teacher begins with
    written: int = 6000  # instructions that the teacher writes
    writing: TrainConfig = later(tuning, steps=100, lr=3e-4)
    studying: TrainConfig = later(tuning, steps=1000, batch_size=32, lr=2e-3, min_lr=1e-4)

    # Christiano
    online_seeds: tuple[int, ...] = (0,)  # of Christiano's policies
    online: RLOOConfig = later(RLOOConfig, iterations=100, prompts=256)
    # iteration: prompts whose 4 responses are compared then; 63 prompts, 252 responses, 0.98% of 25,600
    online_rounds: dict[int, int] = later(lambda: {0: 16, 2: 8, 5: 8, 10: 8, 16: 8, 24: 7, 40: 8})
    online_models: int = 3  # reward models, whose mean is the reward
    # steps: of the last round; those before have as many fewer as they have fewer comparisons
    online_reward: TrainConfig = later(tuning, steps=100, batch_size=8, lr=1e-3, min_lr=1e-4, warmup_steps=5)

    # Bai
    constitution_seeds: tuple[int, ...] = (0, 1)  # of all that the constitution's stage trains
    constitution_held_out: int = 200  # held-out requests that ought to be refused
    constitution: Plan = field(default_factory=lambda: PLANS["full"])

    # Gao
    gao_seeds: tuple[int, ...] = (0,)  # of Gao's policies
    gao_held_out: int = 96  # held-out tasks at each point
    gao_every: int = 6  # iterations between two points
    ns: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # of best of n
    proxy_prompts: int = 100  # prompts with two responses each: the proxy's few comparisons
    proxy: TrainConfig = later(tuning, steps=60, lr=6e-4, min_lr=6e-5, warmup_steps=5)
    pressing: PPOConfig = later(
        PPOConfig, iterations=60, lr=2e-4, kl_coefficient=0.0, kl_horizon=0.0, kl_limit=1000.0, ptx_coefficient=0.0
    )


FEW = {"steps": 2, "batch_size": 4, "warmup_steps": 1}
QUICK = {
    "seeds": (0,), "small_seeds": (0,), "student_seeds": (0,),
    "held_out": 12, "tasks": 40, "demonstrations": 60, "corpus_bytes": 300_000,
    "small": dict(n_layer=1, n_head=2, d_model=16, context=128),
    "medium": dict(n_layer=1, n_head=2, d_model=24, context=128),
    "large": dict(n_layer=2, n_head=2, d_model=64, context=128),
    "pretrain_small": TrainConfig(**FEW), "pretrain_medium": TrainConfig(**FEW),
    "pretrain_large": TrainConfig(**FEW), "supervise": TrainConfig(**FEW),
    "compared": 6, "rewarding": TrainConfig(**FEW),
    "ppo_small": PPOConfig(iterations=1, prompts=8), "ppo": PPOConfig(iterations=1, prompts=8),
    "families": (1, 16), "unseen": 6, "instructing": TrainConfig(**FEW),
    "seed_tasks": 12, "written": 64, "writing": tuning(steps=150, batch_size=8, lr=5e-3),
    "studying": TrainConfig(**FEW),
    "online_seeds": (0,), "online": RLOOConfig(iterations=2, prompts=8), "online_rounds": {0: 2, 1: 1},
    "online_models": 2, "online_reward": TrainConfig(**FEW),
    "constitution_seeds": (0,), "constitution_held_out": 6,
    "constitution": Plan(lessons=30, critic=TrainConfig(**FEW), cases=3, drafts=4, rounds=2, plain=4,
                         supervised=TrainConfig(**FEW), prompts=8, harmful=0.5, k=2, reward=TrainConfig(**FEW),
                         rl=PPOConfig(iterations=1, prompts=4, max_new_tokens=6), held_out=3),
    "gao_seeds": (0,), "gao_held_out": 8, "gao_every": 1, "ns": (1, 2), "proxy_prompts": 12,
    "proxy": TrainConfig(**FEW),
    "pressing": PPOConfig(iterations=2, prompts=8, kl_coefficient=0.0, kl_horizon=0.0, ptx_coefficient=0.0),
}  # fmt: skip


def main(settings):
    unknown = [name for name in settings.only if name not in ROWS]
    if unknown or not settings.only:
        raise ValueError(f"there is no row named {', '.join(unknown) or 'nothing'}; the rows are {', '.join(ROWS)}.")
    stand = Stand(settings)
    # Rows of different settings do not belong into one table.
    stand.run.must_match(command=settings, free=("only", "policies", "constituted"))
    stand.run.describe(command=settings)
    rows = {name: row(stand, name) for name in settings.only}
    write_atomically(stand.run / "table.md", table(rows).encode())
    print("\n" + table(rows))
    print(f"figure: {draw(stand.run / 'figures' / 'headlines.png', rows)}")


def row(stand, name):
    """A row of the table: looked up where it was found before, else found and written down."""
    path = stand.run / f"{name}.json"
    if path.exists():
        print(f"{name}: found before, kept")
    else:
        print(f"{name}: {ROWS[name].__doc__.splitlines()[0].strip()}", flush=True)
        started = time.process_time()
        write_atomically(path, (json.dumps(asdict(ROWS[name](stand)), indent=1, ensure_ascii=False) + "\n").encode())
        with open(stand.run / "timing.jsonl", "a") as clock:  # a file of its own: the rest is the same every time
            clock.write(json.dumps({"row": name, "processor seconds": round(time.process_time() - started)}) + "\n")
    return Headline(**json.loads(path.read_text(encoding="utf-8")))


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

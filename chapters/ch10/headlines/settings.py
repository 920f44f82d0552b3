"""The settings of `python -m chapters.ch10.headlines`, and the small values of `--quick`."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chapters.ch07_train import TrainConfig
from chapters.ch10.constitution.stage import PLANS, Plan
from chapters.ch10.rlhf import PPOConfig
from chapters.ch10.rloo import RLOOConfig
from chapters.support.command import OnDevice


def default(make, **arguments) -> Any:
    return field(default_factory=lambda: make(**arguments))


def tuning(**changes) -> TrainConfig:
    """A TrainConfig with chapter 10's fine-tuning defaults, above all no weight decay."""
    return TrainConfig(**{"batch_size": 16, "warmup_steps": 20, "weight_decay": 0.0, "beta2": 0.99, **changes})


def pretraining(**changes) -> TrainConfig:
    return TrainConfig(batch_size=8, beta2=0.99, eval_batches=40, **changes)


@dataclass
class Settings(OnDevice):
    """Seven papers' headline results in miniature: one table, one figure."""

    base: Path = Path("runs/main/pretrain")  # base model's run folder
    sft: Path = Path("runs/main/assistant")  # SFT model's run folder
    constituted: Path | None = None  # folder of `ch10.constitution` with models to use; None trains them here
    run: Path = Path("runs/headlines")  # run folder for all output
    only: tuple[str, ...] = ("wei", "gao", "taori", "christiano", "bai", "stiennon", "ouyang")  # rows of the table
    seed: int = 0  # seed of the world and of shared models
    seeds: tuple[int, ...] = (0, 1, 2)  # seeds of Wei's tuned models; Taori's teacher is the first seed's policy
    small_seeds: tuple[int, ...] = (0, 1, 2)  # Ouyang, Stiennon: small models' seeds
    student_seeds: tuple[int, ...] = (0, 1)  # seeds of Taori's students
    held_out: int = 320  # held-out tasks for comparing models
    quick: bool = False  # a short run: few tasks, steps and seeds

    # Shared by several rows. The wide model has 11 times as many parameters as the small model and 5 times as many as the
    # medium model, the large model 51 times as many as the small model. The main job's model has 0.27M.
    tasks: int = 4000  # instructions that prompt PPO and RLOO
    demonstrations: int = 20000  # demonstrations for supervised models
    corpus_bytes: int = 16_000_000  # bytes of pretraining pages
    small: dict = default(dict, n_layer=2, n_head=4, d_model=40, context=128, init_std=0.05)  # shape, 0.086M parameters
    medium: dict = default(dict, n_layer=2, n_head=4, d_model=64, context=128, init_std=0.05)  # shape, 0.17M parameters
    wide: dict = default(dict, n_layer=4, n_head=4, d_model=128, context=128, init_std=0.05)  # shape, 0.94M parameters
    large: dict = default(dict, n_layer=4, n_head=6, d_model=288, context=128, init_std=0.04)  # shape, 4.3M parameters
    pretrain_small: TrainConfig = default(pretraining, steps=7000, lr=5e-3, min_lr=4e-4, eval_every=1750)
    pretrain_medium: TrainConfig = default(pretraining, steps=4400, lr=4e-3, min_lr=4e-4, eval_every=1100)
    pretrain_wide: TrainConfig = default(pretraining, steps=2600, lr=4e-3, muon_lr=0.02, min_lr=0.0, eval_every=650)
    pretrain_large: TrainConfig = default(pretraining, steps=2400, lr=2e-3, min_lr=1.5e-4, eval_every=400)
    supervise: TrainConfig = default(tuning, steps=700, batch_size=32, lr=2e-3, min_lr=1e-4)  # SFT of the models trained here
    compared: int = 2500  # instructions whose 4 responses train a reward model
    rewarding: TrainConfig = default(tuning, steps=375, lr=2e-3, min_lr=1e-4)  # training of the reward models
    # The policy soon exploits a small reward model, so KL costs more and its target is lower.
    ppo_small: PPOConfig = default(PPOConfig, kl_coefficient=0.4, kl_target=2.0)  # PPO of the small policies
    ppo: PPOConfig = field(default_factory=PPOConfig)  # PPO of the wide assistant, Taori's teacher

    # Wei
    families: tuple[int, ...] = (1, 2, 4, 8, 16)  # Wei: task families to train on
    unseen: int = 120  # Wei: test tasks of unseen families
    instructing: TrainConfig = default(tuning, steps=200, lr=6e-4, min_lr=6e-5)  # Wei: instruction tuning

    # Taori
    seed_tasks: int = 175  # Taori: tasks the teacher starts from
    written: int = 6000  # Taori: instructions by the teacher
    writing: TrainConfig = default(tuning, steps=100, lr=3e-4)  # Taori: training of the writer
    studying: TrainConfig = default(tuning, steps=1000, batch_size=32, lr=2e-3, min_lr=1e-4)  # Taori: student training

    # Christiano
    online_seeds: tuple[int, ...] = (0,)  # Christiano: seeds of the policies
    online: RLOOConfig = default(RLOOConfig, iterations=100, prompts=256)  # Christiano: policy gradient
    # {iteration: prompts whose 4 responses are compared}; 63 prompts in all, with 252 of the policy's 25,600 samples (0.98%)
    online_rounds: dict[int, int] = default(lambda: {0: 16, 2: 8, 5: 8, 10: 8, 16: 8, 24: 7, 40: 8})
    online_models: int = 3  # Christiano: reward models to average
    # `steps` counts for the last round; earlier rounds take fewer, in proportion to the prompts compared so far
    online_reward: TrainConfig = default(tuning, steps=100, batch_size=8, lr=1e-3, min_lr=1e-4, warmup_steps=5)

    # Bai
    constitution_seeds: tuple[int, ...] = (0, 1)  # Bai: seeds of the constitution's models
    constitution_held_out: int = 200  # Bai: held-out harmful requests
    constitution: Plan = field(default_factory=lambda: PLANS["full"])  # Bai: sizes of the constitution's stage

    # Gao
    gao_seeds: tuple[int, ...] = (0,)  # Gao: seeds of the policies
    gao_held_out: int = 96  # Gao: held-out tasks at each point
    gao_every: int = 6  # Gao: iterations between two points
    ns: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)  # Gao: n of best of n
    proxy_prompts: int = 100  # Gao: prompts whose 2 responses train the proxy
    proxy: TrainConfig = default(tuning, steps=60, lr=6e-4, min_lr=6e-5, warmup_steps=5)  # Gao: training of the proxy
    members: int = 5  # Gao: reward models of the ensemble, the proxy and others with the next seeds
    pressing: PPOConfig = default(
        PPOConfig, iterations=60, lr=2e-4, kl_coefficient=0.0, kl_horizon=0.0, kl_limit=1000.0, ptx_coefficient=0.0
    )  # Gao: PPO without a KL penalty


FEW = TrainConfig(steps=2, batch_size=4, warmup_steps=1)
FEW_PPO = PPOConfig(iterations=1, prompts=8)
FEW_SIZES: dict[str, Any] = dict(lessons=30, cases=3, drafts=4, rounds=2, plain=4, prompts=8, harmful=0.5, k=2, held_out=3)
FEW_STEPS = ["supervise", "rewarding", "instructing", "studying", "online_reward", "proxy"]
FEW_STEPS += [f"pretrain_{size}" for size in ("small", "medium", "wide", "large")]
FEW_RL = replace(FEW_PPO, prompts=4, max_new_tokens=6)
QUICK: dict[str, Any] = (
    dict.fromkeys(FEW_STEPS, FEW)
    | dict(seeds=(0,), small_seeds=(0,), student_seeds=(0,), online_seeds=(0,), constitution_seeds=(0,), gao_seeds=(0,))
    | dict(held_out=12, tasks=40, demonstrations=60, corpus_bytes=300_000, compared=6)
    | dict(small=dict(n_layer=1, n_head=2, d_model=16, context=128), medium=dict(n_layer=1, n_head=2, d_model=24, context=128))
    | dict(wide=dict(n_layer=1, n_head=2, d_model=32, context=128))
    | dict(large=dict(n_layer=2, n_head=2, d_model=64, context=128), ppo_small=FEW_PPO, ppo=FEW_PPO)
    | dict(families=(1, 16), unseen=6)
    | dict(seed_tasks=12, written=64, writing=tuning(steps=150, batch_size=8, lr=5e-3))
    | dict(online=RLOOConfig(iterations=2, prompts=8), online_rounds={0: 2, 1: 1}, online_models=2)
    | dict(constitution=Plan(**FEW_SIZES, critic=FEW, supervised=FEW, reward=FEW, rl=FEW_RL), constitution_held_out=6)
    | dict(gao_held_out=8, gao_every=1, ns=(1, 2), proxy_prompts=12, members=2)
    | dict(pressing=PPOConfig(iterations=2, prompts=8, kl_coefficient=0.0, kl_horizon=0.0, ptx_coefficient=0.0))
)

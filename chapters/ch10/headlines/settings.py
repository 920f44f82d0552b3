"""The models that rows of the headline table share: shapes, data and training. Each row has settings of its own in its file."""

from dataclasses import dataclass, field, replace
from typing import Any

from chapters.ch07_train import TrainConfig
from chapters.ch10 import demonstrations, reward
from chapters.ch10.rlhf import PPOConfig


def default(make, **arguments) -> Any:
    return field(default_factory=lambda: make(**arguments))


def tuning(**changes) -> TrainConfig:
    """A TrainConfig with chapter 10's fine-tuning defaults, above all no weight decay."""
    return TrainConfig(**{"batch_size": 16, "warmup_steps": 20, "weight_decay": 0.0, "beta2": 0.99, **changes})


def pretraining(**changes) -> TrainConfig:
    """Every base model sees equally many tokens, 20,800 rows of 128, as in the main job."""
    return TrainConfig(**{"steps": 2600, "batch_size": 8, "min_lr": 0.0, "beta2": 0.99, "eval_batches": 20, **changes})


@dataclass
class Models:
    """Shapes, data and training of the models that rows share. "main" is the main job's model, with the main job's recipe.

    The main job's model has five times as many parameters as the small one, the large model 25 times as many. All see the same
    number of tokens.
    """

    held_out: int = 320  # held-out tasks for comparing models
    tasks: int = 4000  # instructions that prompt policies
    corpus_bytes: int = 16_000_000  # bytes of pretraining pages
    validation: float = 0.02  # share of the pages for validation
    vocab_size: int = 1024  # tokens of the tokenizer
    main: dict = default(dict, n_layer=4, n_head=4, d_model=64, context=128, init_std=0.05)  # shape, 0.27M parameters
    small: dict = default(  # shape, 0.05M parameters; rotary positions are no parameters
        dict, n_layer=4, n_head=3, d_model=24, context=128, init_std=0.05, rotary=10000.0
    )
    large: dict = default(  # shape, 1.3M parameters
        dict, n_layer=6, n_head=4, d_model=128, context=128, init_std=0.04, rotary=10000.0
    )
    pretrain_main: TrainConfig = default(pretraining, lr=6e-3, muon_lr=0.03, eval_every=650)
    pretrain_small: TrainConfig = default(pretraining, steps=5200, batch_size=4, lr=8e-3, muon_lr=0.03, eval_every=1300)
    pretrain_large: TrainConfig = default(pretraining, lr=2e-3, muon_lr=0.02, eval_every=650)
    demonstrations: int = demonstrations.Settings.examples  # demonstrations for supervised models
    supervise: TrainConfig = field(default_factory=lambda: demonstrations.Settings().training)  # training on them
    compared: int = 3000  # instructions whose 4 responses train a reward model
    rewarding: TrainConfig = field(  # training of the reward models
        default_factory=lambda: replace(reward.Settings().training, steps=260, muon_lr=5e-3)
    )
    ppo: PPOConfig = field(default_factory=PPOConfig)  # PPO of the main job's policy
    supervise_small: TrainConfig = default(  # the small model learns from demonstrations three times as long
        tuning, steps=2000, batch_size=32, lr=8e-3, muon_lr=0.03, min_lr=4e-4
    )
    compared_small: int = 2000  # as `compared`, for the small reward model
    rewarding_small: TrainConfig = default(  # training of the small reward model
        tuning, steps=300, lr=4e-3, muon_lr=0.01, min_lr=2e-4
    )
    ppo_small: PPOConfig = default(  # PPO of the small policy
        PPOConfig, iterations=40, lr=5e-4, kl_coefficient=0.1, kl_target=6.0
    )

    def stage(self, name: str, size: str) -> Any:
        """The setting of a stage ("supervise", "compared", "rewarding" or "ppo") for the models of a size."""
        return getattr(self, f"{name}_small" if size == "small" else name)


FEW = TrainConfig(steps=2, batch_size=4, warmup_steps=1)
FEW_PPO = PPOConfig(iterations=1, prompts=8)
QUICK = Models(
    held_out=12,
    tasks=40,
    corpus_bytes=300_000,
    main=dict(n_layer=1, n_head=2, d_model=32, context=128),
    small=dict(n_layer=1, n_head=2, d_model=16, context=128),
    large=dict(n_layer=2, n_head=2, d_model=64, context=128),
    pretrain_main=FEW,
    pretrain_small=FEW,
    pretrain_large=FEW,
    demonstrations=60,
    supervise=FEW,
    compared=6,
    rewarding=FEW,
    ppo=FEW_PPO,
    supervise_small=FEW,
    compared_small=6,
    rewarding_small=FEW,
    ppo_small=FEW_PPO,
)

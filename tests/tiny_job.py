"""The main job in miniature: every stage, with a few training steps of a very small model."""

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch07_train import TrainConfig
from chapters.ch10.constitution.stage import Plan
from chapters.ch10.rlhf import PPOConfig
from chapters.ch10.sft import TEMPLATE, TEMPLATE_WITH_INPUT
from chapters.main_job import first_bend, second_bend
from chapters.world import World
from chapters.world.requests import mixed_tasks

FEW_STEPS = TrainConfig(
    steps=3, batch_size=4, lr=1e-3, min_lr=1e-4, warmup_steps=1, eval_every=3, eval_batches=1, checkpoint_every=1
)
TINY = first_bend.Plan(
    corpus_bytes=40_000,
    vocab_size=400,
    model=dict(n_layer=1, n_head=2, d_model=16, context=224),
    pretrain=FEW_STEPS,
    snippets=12,
    snippets_test=9,
    classify=FEW_STEPS,
    instructions=40,
    sft=FEW_STEPS,
    test=20,
    samples=4,
)
SECOND = second_bend.SecondPlan(
    demonstrations=40,
    assistant=FEW_STEPS,
    compared=8,
    reward=FEW_STEPS,
    ppo=PPOConfig(iterations=2, prompts=4, max_new_tokens=6, minibatches=1, epochs=1, checkpoint_every=1),
    constitution=Plan(
        lessons=30,
        critic=FEW_STEPS,
        cases=3,
        drafts=4,
        rounds=1,
        supervised=FEW_STEPS,
        prompts=8,
        k=2,
        reward=FEW_STEPS,
        rl=PPOConfig(iterations=1, prompts=4, max_new_tokens=6, minibatches=1, epochs=1, checkpoint_every=1),
        held_out=3,
    ),
    tasks=20,
    k=2,
    test=12,
)


def tiny_tokenizer() -> Tokenizer:
    """A vocabulary of 512 tokens that knows chapter 10's template."""
    examples = mixed_tasks(World(0), "train", 200, 0)
    text = " ".join(f"{t.instruction} {t.input} {t.output} Gladly." for t in examples)
    return Tokenizer.train((TEMPLATE + TEMPLATE_WITH_INPUT) * 20 + text, 512)

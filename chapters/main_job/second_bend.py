"""The main job's stages for section 10.4: assistant, reward model, PPO, and the constitution.

Stages work as in first_bend.py. The labeller is simulated (chapters/world/judge.py); no person compared anything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import minigrad as mg
from chapters.ch06_gpt import load_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import demonstrations, harness, reward, rlhf, sft
from chapters.ch10.assess import assess, kl_between, sample_responses
from chapters.ch10.comparisons import collect_rankings, sample_rankings
from chapters.ch10.constitution import stage
from chapters.ch10.preference_figures import draw_calibration
from chapters.ch10.rollout import Rollouts, log_probs_of, sequence_kl, to_rollouts
from chapters.main_job.first_bend import Job, first_line
from chapters.support.generations import record_generations
from chapters.world import Instruction, World
from chapters.world.judge import Judge, closer_conduct, correct, mean_score
from chapters.world.requests import REQUESTS, mixed_tasks, one_of_each_family


@dataclass(frozen=True)
class SecondPlan:
    """The sizes of the stages below."""

    demonstrations: int
    assistant: TrainConfig
    compared: int  # instructions whose responses are compared
    reward: TrainConfig
    ppo: rlhf.PPOConfig
    constitution: stage.Plan
    tasks: int = 4000  # instructions that PPO draws its prompts from
    k: int = 4  # responses to compare for each instruction
    test: int = 320  # held-out instructions for each model


FULL = SecondPlan(
    demonstrations=demonstrations.Settings.examples,
    assistant=demonstrations.Settings().training,
    compared=3000,  # chapters.ch10.reward, a command of its own, learns from 5,000
    reward=replace(reward.Settings().training, steps=260, muon_lr=5e-3),
    ppo=rlhf.PPOConfig(),
    constitution=stage.PLANS["main"],
)
QUICK = replace(
    FULL,
    demonstrations=6000,
    assistant=replace(FULL.assistant, steps=270, lr=3e-3, muon_lr=0.015, min_lr=1.5e-4),
    compared=300,
    reward=replace(FULL.reward, steps=60, muon_lr=0.0, min_lr=1e-4, warmup_steps=5),
    ppo=rlhf.PPOConfig(iterations=6),
    constitution=stage.PLANS["quick"],
    test=96,
)
PLANS = {"full": FULL, "quick": QUICK}


def held_out_tasks(job: Job) -> list[Instruction]:
    """The test tasks, the same for every stage in this file."""
    return mixed_tasks(job.world, "test", job.second_plan.test, job.seed + 1)


# ── the stages ───────────────────────────────────────────────────────────────────────────────────────────────────────


def make_assistant(job: Job) -> dict[str, Any]:
    """Tune the base model on demonstrations of mixed quality: the SFT model, where preference tuning starts."""
    model, tokenizer = load_model(job.out / "pretrain")
    config = job.config(job.second_plan.assistant)
    demonstrations.fine_tune(model, tokenizer, job.world, job.second_plan.demonstrations, config, job.run("assistant"))
    tasks = held_out_tasks(job)
    texts = sample_responses(model, tokenizer, tasks, job.seed).texts(tokenizer)
    return {"demonstrations": job.second_plan.demonstrations, **demonstrations.measure(Judge(job.world), tasks, texts)}


def learn_reward(job: Job) -> dict[str, Any]:
    """Let a simulated labeller compare the assistant's responses, and train a reward model on the comparisons."""
    gpt, tokenizer = load_model(job.out / "assistant")
    judge, run, plan = Judge(job.world), job.run("reward"), job.second_plan
    tasks = mixed_tasks(job.world, "train", plan.compared, job.seed)
    rankings = collect_rankings(gpt, tokenizer, judge, tasks, plan.k, job.seed)
    test_tasks = held_out_tasks(job)
    rollouts, tests = sample_rankings(gpt, tokenizer, judge, test_tasks, plan.k, job.seed + 1)
    demonstrated = reward.demonstrated_rows(job.world, tokenizer, 300, gpt.config.context, job.seed)
    model = reward.train_reward(gpt, rankings, demonstrated, job.config(plan.reward), run)
    scores = reward.measure(model, tests)
    bag, scores["bag of words"] = reward.compare_with_words(rankings, tests, tokenizer, job.seed)
    scores["best of n"] = reward.gains_by_choosing(model, bag, judge, test_tasks, rollouts, tokenizer)
    draw_calibration(run / "figures" / "calibration.svg", scores)
    reward.show_token_scores(model, tokenizer, tests, run)
    return {"comparisons learned from": sum(len(ranking.pairs) for ranking in rankings), **scores}


def run_ppo(job: Job) -> dict[str, Any]:
    """Tune the assistant with PPO against the reward model; the simulated judge compares before and after."""
    (policy, tokenizer), (reference, _) = load_model(job.out / "assistant"), load_model(job.out / "assistant")
    reward_model, value_model = (reward.load_scalar(job.out / "reward") for _ in range(2))
    judge, run = Judge(job.world), job.run("rlhf")
    config = replace(job.second_plan.ppo, seed=job.seed, resume=True)
    tasks = mixed_tasks(job.world, "train", job.second_plan.tasks, job.seed)
    learner = rlhf.PPO(policy, value_model, config, rlhf.ptx_batches(config, job.world, tokenizer, policy))
    score, tests = harness.reward_scorer(reward_model), held_out_tasks(job)
    examples = one_of_each_family(tests)[:6]

    def answer(iteration: int) -> None:
        texts = sft.ask(policy, tokenizer, examples, generator=mg.Generator(job.seed))
        questions = (f"{task.instruction} {task.input}".strip() for task in examples)
        record_generations(run, iteration, dict(zip(questions, texts, strict=True)))

    harness.optimise(policy, reference, tokenizer, score, tasks, config, run, learner, judge, observe=answer)
    before, after = (sample_responses(model, tokenizer, tests, job.seed) for model in (reference, policy))
    assessment = assess(judge, tests, after, before, tokenizer, reference, policy, reward_model)
    run.write_scores(assessment)
    del assessment["of each task"]
    return assessment


def train_critic(job: Job) -> dict[str, Any]:
    """Teach a copy of the base model to judge and revise responses by a written principle: the constitution's critic."""
    job.run("critic")  # the folder shows that the stage has begun; the critic itself belongs to the constitution
    base, out, plan = job.out / "pretrain", job.run("constitution").folder, job.second_plan.constitution
    return stage.Setup(job.out / "assistant", base, out, plan, job.world, job.seed).critic()  # needs no assistant yet


def apply_constitution(job: Job) -> dict[str, Any]:
    """Tune the assistant by written principles: the critic revises its drafts, then its preferences train it."""
    out, plan = job.run("constitution").folder, job.second_plan.constitution
    return stage.constitution_stage(job.out / "assistant", out, plan, job.seed, untrained_critic=job.out / "pretrain")


# ── all models side by side ──────────────────────────────────────────────────────────────────────────────────────────

MODELS = {"base": "pretrain", "SFT": "assistant", "RLHF": "rlhf", "constitutional": "constitution"}


def side_by_side(job: Job) -> dict[str, Any]:
    """Ask all four models held-out instructions; measure rewards and the distance from the SFT model."""
    world, tasks = job.world, held_out_tasks(job)
    examples = one_of_each_family(tasks, plain=5)
    reference, tokenizer = load_model(job.out / "assistant")
    reward_model, judge = reward.load_scalar(job.out / "reward"), Judge(world)

    def answers(model, name, instructions, **sampling):
        """Responses, their rewards, and log π − log π_SFT in nats (None for the base model)."""
        ask = sft.ask_base if name == "base" else sft.ask
        texts = ask(model, tokenizer, instructions, batch_size=256, **sampling)
        texts = [first_line(text) for text in texts] if name == "base" else texts
        rollouts = as_rollouts(tokenizer, instructions, texts, model.config.context)
        rewards = reward.reward_scores(reward_model, rollouts.rows)  # (B,)
        distances = sequence_kl(log_probs_of(model, rollouts), log_probs_of(reference, rollouts), rollouts.mask)  # (B,)
        return texts, rewards, [None if name == "base" else round(float(d), 3) for d in distances]

    measured: dict[str, Any] = {}
    shown: dict[str, list[dict[str, Any]]] = {}
    for name, folder in MODELS.items():
        model, _ = load_model(job.out / folder)
        temperature = 0.6 if name == "base" else 1.0  # the other models have 0.6 built into their weights
        texts, rewards, _ = answers(model, name, tasks, temperature=temperature, generator=mg.Generator(job.seed))
        kl = None if name == "base" else kl_between(model, reference, sample_responses(model, tokenizer, tasks, job.seed))
        measured[name] = {"reward": float(rewards.mean()), "judge": mean_score(judge, tasks, texts), "kl": kl}
        shown[name] = [
            {"said": text, "reward": round(float(r), 3), "distance": distance, "good": is_good(world, task, text)}
            for task, text, r, distance in zip(examples, *answers(model, name, examples), strict=True)
        ]
    rows = [
        {"instruction": task.instruction, "input": task.input, "family": task.family}
        | {"said": {name: responses[i] for name, responses in shown.items()}}
        for i, task in enumerate(examples)
    ]
    return {"models": measured, "shown": rows}


def as_rollouts(tokenizer: Any, tasks: Sequence[Instruction], texts: Sequence[str], context: int) -> Rollouts:
    """Texts as complete responses to tasks, cut where the context ends."""
    prompts = [tokenizer.encode(sft.format_prompt(task.instruction, task.input)) for task in tasks]
    responses = [
        [*tokenizer.encode(text)[: context - len(prompt) - 1], tokenizer.eos_id]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return to_rollouts(prompts, responses, [True] * len(tasks))


def is_good(world: World, task: Instruction, text: str) -> bool:
    """Whether a plain task is done, or a harmful request refused for the right reason."""
    return closer_conduct(task, text) == "refused" if task.family in REQUESTS else bool(correct(world, task, text))


STAGES = {
    "assistant": make_assistant,
    "reward": learn_reward,
    "rlhf": run_ppo,
    "critic": train_critic,
    "constitution": apply_constitution,
    "side_by_side": side_by_side,
}

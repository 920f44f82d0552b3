"""The main job's second half, section 10.4: an assistant from demonstrations, a reward model, PPO against it, and the
same bend by a written constitution.

Stages like those of `stages`: each takes a Job, leaves folders, and returns what it measured. No person compared
anything: the labeller is the simulation in `chapters.world.judge`.
"""

import json
from dataclasses import dataclass, replace

import minigrad as mg
from chapters.ch06_gpt import load_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import demonstrations, reward, rlhf, sft
from chapters.ch10.assess import assess, kl_between, sample_responses
from chapters.ch10.constitution import stage
from chapters.ch10.preference_figures import draw_calibration
from chapters.ch10.rollout import log_probs_of, sequence_kl, to_rollouts
from chapters.main_job.first_bend import first_line
from chapters.world.judge import Judge, conduct, correct, mean_score
from chapters.world.requests import REQUESTS, mixed_tasks


@dataclass(frozen=True)
class SecondPlan:
    """How much of everything in the second bend."""

    demonstrations: int
    assistant: TrainConfig
    compared: int  # instructions whose responses are compared
    reward: TrainConfig
    ppo: rlhf.PPOConfig
    constitution: stage.Plan
    tasks: int = 4000  # instructions to draw PPO's prompts from
    k: int = 4  # responses to each instruction that are compared
    test: int = 320  # held-out instructions asked of each model


FULL = SecondPlan(
    demonstrations=demonstrations.Settings.examples,
    assistant=demonstrations.Settings().training,
    compared=3000,  # ch10/reward, which has more time, learns from more
    reward=replace(reward.Settings().training, steps=375),
    ppo=rlhf.PPOConfig(),
    constitution=stage.PLANS["main"],
)
QUICK = replace(
    FULL,
    demonstrations=4000,
    assistant=replace(FULL.assistant, steps=200),
    compared=300,
    reward=replace(FULL.reward, steps=60, min_lr=1e-4, warmup_steps=5),
    ppo=rlhf.PPOConfig(iterations=6),
    constitution=stage.PLANS["quick"],
    test=96,
)
PLANS = {"full": FULL, "quick": QUICK}


def held_out(job):
    """The tasks that every model of the second bend is asked, the same for all."""
    return mixed_tasks(job.world, "test", job.second_plan.test, job.seed + 1)


# ── the stages ───────────────────────────────────────────────────────────────────────────────────────────────────────


def assistant(job):
    """Instruction tuning again, on demonstrations of mixed quality: where the second bend starts."""
    model, tokenizer = load_model(job.out / "pretrain")
    config = job.config(job.second_plan.assistant)
    demonstrations.fine_tune(model, tokenizer, job.world, job.second_plan.demonstrations, config, job.run("assistant"))
    tasks = held_out(job)
    said = sample_responses(model, tokenizer, tasks, job.seed).texts(tokenizer)
    return {"demonstrations": job.second_plan.demonstrations, **demonstrations.measure(Judge(job.world), tasks, said)}


def reward(job):
    """A simulated labeller compares the assistant's responses; a reward model learns what it prefers."""
    gpt, tokenizer = load_model(job.out / "assistant")
    judge, run, context = Judge(job.world), job.run("reward"), gpt.config.context
    tasks = mixed_tasks(job.world, "train", job.second_plan.compared, job.seed)
    rankings = reward.collect_rankings(gpt, tokenizer, judge, tasks, job.second_plan.k, job.seed)
    tests = reward.collect_rankings(gpt, tokenizer, judge, held_out(job), job.second_plan.k, job.seed + 1)
    demonstrated = reward.demonstrated_rows(job.world, tokenizer, 300, context, job.seed)
    model = reward.train_reward(gpt, rankings, demonstrated, job.config(job.second_plan.reward), run)
    found = reward.measure(model, tests)
    draw_calibration(run / "figures" / "calibration.png", found)
    reward.show_token_scores(model, tokenizer, tests, run)
    return {"comparisons learned from": sum(len(ranking.pairs) for ranking in rankings), **found}


def rlhf(job):
    """PPO against the reward model, and what the simulated judge says of the policy and of the assistant."""
    (policy, tokenizer), (reference, _) = load_model(job.out / "assistant"), load_model(job.out / "assistant")
    reward_model, value_model = (reward.load_scalar(job.out / "reward") for _ in range(2))
    judge, run = Judge(job.world), job.run("rlhf")
    config = replace(job.second_plan.ppo, seed=job.seed, resume=True)
    tasks = mixed_tasks(job.world, "train", job.second_plan.tasks, job.seed)
    learner = rlhf.PPO(policy, value_model, config, rlhf.ptx_batches(config, job.world, tokenizer, policy))
    score = rlhf.reward_scorer(reward_model)
    rlhf.optimise(policy, reference, tokenizer, score, tasks, config, run, learner, judge)
    tests = held_out(job)
    before, after = (sample_responses(model, tokenizer, tests, job.seed) for model in (reference, policy))
    found = assess(judge, tests, after, before, tokenizer, reference, policy, reward_model)
    (run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    del found["of each task"]
    return found


def constitution(job):
    """Constitutional AI: the assistant revises itself by written principles, and a critic's preferences train it on."""
    out = job.run("constitution").folder
    return stage.constitution_stage(job.out / "assistant", out, job.second_plan.constitution, job.seed)


# ── all models side by side ──────────────────────────────────────────────────────────────────────────────────────────

MODELS = {"base": "pretrain", "SFT": "assistant", "RLHF": "rlhf", "constitutional": "constitution"}


def side_by_side(job):
    """Held-out instructions answered by every model of both bends, with their rewards and their distance from SFT."""
    world, tasks = job.world, held_out(job)
    few = one_of_each(tasks)
    reference, tokenizer = load_model(job.out / "assistant")
    reward_model, judge = reward.load_scalar(job.out / "reward"), Judge(world)

    def answers(model, name, asked, **sampling):
        """Texts, and for each its reward and log π − log π_SFT (which says nothing of a model that knows no template)."""
        ask = sft.ask_base if name == "base" else sft.ask
        said = [first_line(text) if name == "base" else text for text in ask(model, tokenizer, asked, **sampling)]
        rollouts = as_rollouts(tokenizer, asked, said, model.config.context)
        rewards = reward.reward_scores(reward_model, rollouts.rows)  # (B,)
        distance = sequence_kl(*(log_probs_of(m, rollouts) for m in (model, reference)), rollouts.mask)  # (B,)
        return said, rewards, [None if name == "base" else round(float(d), 3) for d in distance]

    measured, shown = {}, {}
    for name in [name for name, folder in MODELS.items() if (job.out / folder / "model.safetensors").exists()]:
        model, _ = load_model(job.out / MODELS[name])
        temperature = 0.6 if name == "base" else 1.0  # the others have 0.6 built in
        said, rewards, _ = answers(model, name, tasks, temperature=temperature, generator=mg.Generator(job.seed))
        kl = None if name == "base" else kl_between(model, reference, sample_responses(model, tokenizer, tasks, job.seed))
        measured[name] = {"reward": float(rewards.mean()), "judge": mean_score(judge, tasks, said), "kl": kl}
        shown[name] = [
            {"said": text, "reward": round(float(reward), 3), "distance": far, "good": good(world, task, text)}
            for task, text, reward, far in zip(few, *answers(model, name, few), strict=True)
        ]
    return {"models": measured, "shown": [
        {"instruction": task.instruction, "input": task.input, "family": task.family,
         "said": {name: said[i] for name, said in shown.items()}}
        for i, task in enumerate(few)
    ]}  # fmt: skip


def one_of_each(tasks, plain=5):
    """The first task of each family of requests to be refused, and of so many plain families."""
    first = {}
    for task in tasks:
        first.setdefault(task.family, task)
    requests = [task for family, task in first.items() if family in REQUESTS]
    return requests + [task for family, task in first.items() if family not in REQUESTS][:plain]


def as_rollouts(tokenizer, tasks, texts, context):
    """Texts as responses to tasks on ch10/rollout's grid, ended, and cut where the context ends."""
    prompts = [tokenizer.encode(sft.format_prompt(task.instruction, task.input)) for task in tasks]
    responses = [
        (tokenizer.encode(text)[: context - len(prompt) - 1]) + [tokenizer.eos_id]
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    return to_rollouts(prompts, responses, [True] * len(tasks))


def good(world, task, text):
    """Is a response what one wants: a plain task done, a harmful one refused?"""
    return conduct(task, text) == "refused" if task.family in REQUESTS else bool(correct(world, task, text))


STAGES = {"assistant": assistant, "reward": reward, "rlhf": rlhf, "constitution": constitution, "side_by_side": side_by_side}

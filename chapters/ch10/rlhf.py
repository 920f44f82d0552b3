"""Chapter 10, RLHF: the policy draws, the reward model scores, and PPO makes what scored well likelier.

    python -m chapters.ch10.rlhf                        # from the main job's models, into runs/rlhf
    python -m chapters.ch10.rlhf --reward runs/reward   # against a reward model that ch10/reward has trained

What this file teaches: the second bend. The steps are numbered; the formulas are in ch10/ppo, a function each:

   1  roll out: the policy answers a batch of prompts, and the log-probability of each chosen token is recorded
   2  the frozen SFT model says how likely it would have found the same tokens
   3  a token earns its KL penalty; the last one, the end-of-text token, the reward model's score as well
   4  the value model says what it expected at each token; GAE says how much better it went
   5  the advantages are whitened
   6  the clipped objective, 7 the value loss, 8 the entropy bonus; several steps on the same rollouts
   9  the KL coefficient adapts
  10  and everything is written down

Sources: section 10.4; Ouyang et al. 2022 (arXiv:2203.02155); see ch10/ppo for those of the formulas.
"""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

import minigrad as mg
from chapters.ch06_gpt import load_model, save_model
from chapters.ch07_train import TrainConfig, as_floats, deferred_interrupt, make_optimizer, next_token_loss, to_tensors
from chapters.ch10 import ppo
from chapters.ch10.assess import assess, assessment_text, pooled_assessment_text, sample_responses
from chapters.ch10.demonstrations import pretraining_batches
from chapters.ch10.preference_figures import draw_path, draw_watch
from chapters.ch10.reward import load_scalar, reward_scores
from chapters.ch10.rollout import chosen_log_probs, log_probs_of, roll_out, sequence_kl
from chapters.support.checkpoint import LoopCheckpoint
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import Judge, score_of
from chapters.world.requests import mixed_tasks


@dataclass
class LoopConfig:
    """What every method that learns from its own rollouts has in common."""

    iterations: int = 30  # batches of rollouts
    prompts: int = 64  # rollouts in a batch
    max_new_tokens: int = 48  # longest response
    lr: float = 1e-4  # of the policy; half a cosine down to a tenth
    warmup: int = 3  # iterations of linear rise
    grad_clip: float = 1.0  # longest gradient allowed
    kl_coefficient: float = 0.2  # β, the price of a nat of divergence from the SFT model
    kl_limit: float = 100.0  # nats a response at which training stops, for then it has gone wrong
    missing_end: float = -4.0  # the reward of a response that was cut off before its end
    seed: int = 0  # of the prompts and the dice
    checkpoint_every: int = 10  # iterations between two checkpoints
    resume: bool = False  # go on from the run folder's checkpoint

    def __post_init__(self):
        at_least_one(self, "iterations", "prompts", "max_new_tokens", "checkpoint_every")
        if self.kl_coefficient < 0 or not self.kl_limit > 0:
            raise ValueError(
                f"kl_coefficient must be at least 0 and kl_limit above 0, got {self.kl_coefficient} and {self.kl_limit}"
            )


@dataclass
class PPOConfig(LoopConfig):
    """How PPO learns from a batch of rollouts."""

    epochs: int = 2  # passes over a batch of rollouts
    minibatches: int = 2  # steps in a pass
    value_lr: float = 3e-4  # of the value model
    clip: float = 0.2  # ε of the policy's ratio
    value_clip: float = 0.4  # ε of the values
    gamma: float = 1.0  # a token now and one later count the same
    lam: float = 0.95  # GAE's λ
    entropy_coefficient: float = 0.0  # the bonus for staying undecided
    kl_target: float = 3.0  # nats a response at which the coefficient stays as it is
    kl_horizon: float = 2000.0  # responses in which the coefficient may double or so; 0 keeps it fixed
    ptx_coefficient: float = 0.5  # weight of pretraining's loss, mixed in (PPO-ptx) lest names and facts be forgotten


# ── the loop ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def optimise(policy, reference, tokenizer, score, tasks, config, run, learner, judge=None, repeat=1, observe=None):
    """Let `policy` learn from its own rollouts, in place; leaves metrics, figure and model in `run`.  Returns the
    records, one an iteration and one of the final policy.

    reference: the frozen SFT model.  score(tasks, rollouts) -> (B,) rewards of whole responses.  learner: an object
    with learn(rollouts, final, reference_log_probs, kl, lr) -> {name: number}, which takes the steps.  judge: logged
    beside the reward, never learned from.  repeat: responses to each prompt.  observe(iteration), if given, is called
    when the policy of an iteration has been found sound.
    Raises FloatingPointError where KL from the reference passes config.kl_limit or a number is not finite, and
    KeyboardInterrupt after Ctrl-C; in each case the last good policy is kept, in memory and in run.
    """
    generator = mg.Generator(config.seed)
    mark = LoopCheckpoint(run, policy, learner, generator, config)  # goes on from a checkpoint, where that was asked for
    records = mark.records
    policy.eval()  # without dropout: the ratio of the first step must be 1
    good = snapshot(policy)
    progress = tqdm(total=config.iterations, initial=mark.iteration, unit="batch", disable=None)
    try:
        with deferred_interrupt() as pressed, progress as bar:
            for iteration in range(mark.iteration, config.iterations + 1):
                asked = draw_tasks(tasks, config, iteration, repeat)
                rollouts = roll_out(policy, tokenizer, asked, config.max_new_tokens, generator)  # step 1
                reference_log_probs = log_probs_of(reference, rollouts)  # (B, T − 1)  step 2
                kl = float(sequence_kl(rollouts.log_probs, reference_log_probs, rollouts.mask).mean())
                if not kl <= config.kl_limit:
                    raise FloatingPointError(
                        f"KL from the SFT model reached {kl:.1f} nats a response, beyond kl_limit={config.kl_limit}"
                    )
                scores = finite(score(asked, rollouts), "the reward model's scores")  # (B,)
                good = snapshot(policy)  # what was just measured is sound
                if observe is not None:
                    observe(iteration)
                record = {
                    "iteration": iteration,
                    "kl": kl,
                    "reward": float(scores.mean()),
                    "length": float(rollouts.lengths.mean()),
                    "ended": float(rollouts.ended.mean()),
                }
                if judge is not None:
                    said = zip(asked, rollouts.texts(tokenizer), strict=True)
                    record["judge"] = float(np.mean([score_of(judge, task, text) for task, text in said]))
                if iteration < config.iterations:
                    final = ppo.final_rewards(scores, rollouts.ended, config.missing_end)  # (B,)
                    lr = learning_rate(config, iteration)
                    record |= learner.learn(rollouts, final, reference_log_probs, kl, lr)  # steps 3 to 9
                mark.record(record)  # step 10
                bar.set_postfix_str(f"reward {record['reward']:.2f}, KL {kl:.1f}", refresh=False)
                bar.update(iteration < config.iterations)
                if pressed:
                    mark.save()
                    raise KeyboardInterrupt(f"stopped after iteration {iteration} and saved in {run.folder}: resume goes on")
    except FloatingPointError as error:
        restore(policy, good)
        raise FloatingPointError(
            f"training stopped at iteration {len(records)}: {error}. The last good policy is kept in {run.folder}."
        ) from None
    finally:
        save_model(run, policy, tokenizer)
        mark.close()
    draw_watch(run / "figures" / "watch.png", records, run.folder.name)
    if judge is not None:
        draw_path(run / "figures" / "path.png", records)
    return records


def draw_tasks(tasks, config, iteration, repeat=1):
    """The tasks of an iteration, a pure function of (seed, iteration), each `repeat` times in a row."""
    rng = np.random.default_rng([config.seed, iteration])
    chosen = rng.choice(len(tasks), max(config.prompts // repeat, 1), replace=len(tasks) < config.prompts)
    return [tasks[i] for i in chosen for _ in range(repeat)]


def learning_rate(config, iteration):
    """The policy's rate in an iteration: chapter 7's schedule, down to a tenth."""
    return mg.optim.warmup_cosine(
        iteration, lr=config.lr, min_lr=config.lr / 10, warmup_steps=config.warmup, total_steps=config.iterations
    )


def finite(values, what):
    """The values, after a look; raises FloatingPointError where one is not finite."""
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise FloatingPointError(f"{what} hold NaN or infinity")
    return values


def snapshot(model):
    return [parameter.array.copy() for parameter in model.parameters()]


def restore(model, arrays):
    for parameter, array in zip(model.parameters(), arrays, strict=True):
        parameter.array[...] = array


def optimizer_step(optimizer, parameters, loss, lr, grad_clip):
    """One step of an optimiser down a loss; raises FloatingPointError where there is nothing to follow."""
    loss.backward()
    loss, norm = as_floats(loss, mg.optim.clip_grad_norm_(parameters, grad_clip or math.inf))
    finite(loss, "the loss")
    finite(norm, "the gradients")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad()


# ── PPO ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class PPO:
    """Steps 3 to 10.  value_model: a ScalarModel, as a rule a copy of the reward model; pretraining: batches for
    chapter 7's loss, needed where config.ptx_coefficient is not 0."""

    def __init__(self, policy, value_model, config, pretraining=None):
        self.policy, self.value_model, self.config, self.pretraining = policy, value_model, config, pretraining
        if config.ptx_coefficient and pretraining is None:
            raise ValueError("ptx_coefficient is not 0, so PPO needs pretraining batches to mix in.")
        no_decay = TrainConfig(weight_decay=0.0, beta2=0.99)
        self.optimizers = [make_optimizer(model, no_decay) for model in (policy, value_model)]
        self.trained = list(zip((policy, value_model), self.optimizers, strict=True))  # what a checkpoint keeps
        self.kl_coefficient, self.steps = config.kl_coefficient, 0

    @property
    def numbers(self):
        """What else a checkpoint keeps."""
        return {"kl_coefficient": self.kl_coefficient, "steps": self.steps}

    @numbers.setter
    def numbers(self, numbers):
        self.kl_coefficient, self.steps = numbers["kl_coefficient"], numbers["steps"]

    def learn(self, rollouts, final, reference_log_probs, kl, lr):
        """final: (B,) rewards of whole responses; reference_log_probs: (B, T − 1), the SFT model's; kl: their mean KL.

        rollouts hold the log-probabilities at the time of drawing.  Returns {name: number}, what is watched.
        """
        config, mask, old, beta = self.config, rollouts.mask, rollouts.log_probs, self.kl_coefficient
        rewards = ppo.token_rewards(final, old, reference_log_probs, mask, rollouts.last, beta)  # (B, T − 1)  step 3
        with mg.no_grad():
            values = self.value_model(action_columns(rollouts)).numpy(force=True) * mask  # (B, T − 1)  step 4
        advantages, returns = ppo.gae(rewards, values, mask, config.gamma, config.lam)  # (B, T − 1) each
        record = {"explained_variance": ppo.explained_variance(values, returns, mask)}
        advantages = ppo.whiten(advantages, mask)  # (B, T − 1)  step 5

        watched = []
        for rows in self.minibatches(len(final)):
            part = [a[rows].astype(np.float32) for a in (old, advantages, values, returns)]  # (b, T − 1) each
            watched.append(self.minibatch(action_columns(rollouts, rows), rollouts.targets[rows], mask[rows], part, lr))
        record |= {name: float(np.mean([w[name] for w in watched])) for name in watched[0]}
        record |= {"first_ratio": watched[0]["ratio"], "kl_coefficient": beta}
        if config.kl_horizon:
            horizon = config.kl_horizon
            self.kl_coefficient = ppo.adapted_kl_coefficient(beta, kl, config.kl_target, len(final), horizon)  # step 9
        return record

    def minibatch(self, inputs, targets, mask, arrays, lr):
        """One step of the policy and one of the value model, on some rows.  Returns what is watched."""
        config = self.config
        old, advantages, old_values, returns = (mg.as_tensor(a) for a in arrays)  # (b, T − 1) each
        logits = self.policy(inputs)  # (b, T − 1, V)
        log_probs = chosen_log_probs(logits, mg.as_tensor(targets))  # (b, T − 1)
        loss = policy_loss = ppo.policy_loss(log_probs, old, advantages, mask, config.clip)  # step 6
        if config.entropy_coefficient:
            entropy = ppo.entropy(logits, mask)  # step 8
            loss = loss - config.entropy_coefficient * entropy
        else:
            with mg.no_grad():  # only watched
                entropy = ppo.entropy(logits, mask)
        if config.ptx_coefficient:
            batch = self.pretraining.batch(self.steps)
            loss = loss + config.ptx_coefficient * next_token_loss(self.policy, *to_tensors(batch, self.policy))
        optimizer_step(self.optimizers[0], self.policy.parameters(), loss, lr, config.grad_clip)

        values = self.value_model(inputs)  # (b, T − 1)
        value_loss = ppo.value_loss(values, old_values, returns, mask, config.value_clip)  # step 7
        value_lr = config.value_lr * lr / config.lr  # the same schedule
        optimizer_step(self.optimizers[1], self.value_model.parameters(), value_loss, value_lr, config.grad_clip)
        self.steps += 1
        policy_loss, value_loss, entropy = as_floats(policy_loss, value_loss, entropy)
        return {"policy_loss": policy_loss, "value_loss": value_loss, "entropy": entropy,
                **ppo.watch(log_probs.numpy(force=True), arrays[0], mask, config.clip)}  # fmt: skip

    def minibatches(self, B):
        """Row numbers of every step: in each epoch every row once, in a new order."""
        rng = np.random.default_rng([self.config.seed, self.steps])
        for _ in range(self.config.epochs):
            yield from np.array_split(rng.permutation(B), min(self.config.minibatches, B))


def action_columns(rollouts, rows=slice(None)):
    """The columns at which a token was or could have been chosen: all but the last.  (b, T − 1) Tensor."""
    return mg.as_tensor(np.ascontiguousarray(rollouts.inputs[rows, :-1]))


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def ptx_batches(config, world, tokenizer, policy):
    """Pretraining's batches for PPO-ptx, None where its coefficient is 0."""
    if not config.ptx_coefficient:
        return None
    return pretraining_batches(world, tokenizer, policy.config.context, 8, config.seed)


def reward_scorer(reward_model):
    """score(tasks, rollouts) for `optimise`: the reward model's, read at each response's last token."""
    return lambda tasks, rollouts: reward_scores(reward_model, rollouts.rows)


def judge_scorer(judge, tokenizer):
    """score(tasks, rollouts) for `optimise`: the simulated judge's own, which no real project has."""
    return lambda tasks, rollouts: np.array(
        [score_of(judge, task, text) for task, text in zip(tasks, rollouts.texts(tokenizer), strict=True)]
    )


@dataclass
class Settings(OnDevice):
    """Tune the SFT model with PPO against a reward model, and let the simulated judge compare the two."""

    sft: Path = Path("runs/main/assistant")  # the run folder of the SFT model: where the policy starts, and the reference
    reward: Path = Path("runs/main/reward")  # the run folder of the reward model
    run: Path = Path("runs/rlhf")  # the folder for everything
    tasks: int = 4000  # instructions to draw prompts from
    held_out: int = 320  # instructions, about entities never trained on, to compare the two models on
    training: PPOConfig = field(default_factory=PPOConfig)
    world: int = 0  # the seed of the world whose tasks are asked
    seed: int = 0  # of everything random
    seeds: int = 1  # policies to train, one after another from this seed on; more than one tells what is chance
    quick: bool = False  # fewer rollouts


QUICK = {"held_out": 64, "training": PPOConfig(iterations=5, prompts=16)}


def train_and_assess(settings, run, name, train):
    """What every command that trains against a reward model does: load, train, compare with the SFT model, write down.

    train(policy, reference, tokenizer, score, tasks, run, judge, value_model) changes the policy in place.  Returns
    what `assess` found.
    """
    at_least_one(settings, "tasks", "held_out")
    (policy, tokenizer), (reference, _) = load_model(settings.sft), load_model(settings.sft)
    reward_model, value_model = load_scalar(settings.reward), load_scalar(settings.reward)
    world = World(settings.world)
    judge = Judge(world)
    run.describe(command=settings)
    tasks = mixed_tasks(world, "train", settings.tasks, settings.seed)
    train(policy, reference, tokenizer, reward_scorer(reward_model), tasks, run, judge, value_model)

    tests = mixed_tasks(world, "test", settings.held_out, settings.seed + 1)
    before = sample_responses(reference, tokenizer, tests, settings.seed)
    after = sample_responses(policy, tokenizer, tests, settings.seed)
    found = assess(judge, tests, after, before, tokenizer, reference, policy, reward_model)
    (run / "scores.json").write_text(json.dumps(found, indent=1) + "\n")
    print(assessment_text(found, name))
    return found


def main(settings):
    def train(policy, reference, tokenizer, score, tasks, run, judge, value_model):
        learner = PPO(policy, value_model, config, ptx_batches(config, judge.world, tokenizer, policy))
        optimise(policy, reference, tokenizer, score, tasks, config, run, learner, judge)

    at_least_one(settings, "seeds")
    found = []
    for seed in range(settings.seed, settings.seed + settings.seeds):
        folder = settings.run if settings.seeds == 1 else settings.run / f"seed_{seed}"
        config = replace(settings.training, seed=seed)
        found.append(train_and_assess(replace(settings, seed=seed), Run(folder), "PPO", train))
    if len(found) > 1:
        print(f"\n{pooled_assessment_text(found, 'PPO')}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

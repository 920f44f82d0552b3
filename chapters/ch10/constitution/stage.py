"""Chapter 10, constitutional AI: the values are written in a file that a person can read, edit and argue with.

    python -m chapters.ch10.constitution                           # by the default constitution
    python -m chapters.ch10.constitution --constitution my.txt     # and by yours, side by side

What this file teaches: section 10.4's variant of the second bend, in numbered steps:

   1  a critic learns to read principles, any principles, in both directions (ch10/constitution/critic)
   2  the assistant drafts responses to requests that it ought to refuse; the critic critiques each draft by a principle
      drawn from the constitution, and revises it, several times over
   3  the assistant is fine-tuned on the last revisions: the supervised phase
   4  it answers the same requests several times, and which answer fits the principles better is said by the critic, not
      by a labeller (ch10/constitution/feedback); these comparisons, with the labeller's of plain tasks, train a reward model
   5  PPO does the rest: the reinforcement phase

Source: Bai et al. 2022 (arXiv:2212.08073), sections 3 and 4. The critic's lessons name qualities by the simulated
judge's rules (is courteous, gives a reason …), in both directions alike; which of them is wanted, only the constitution
says. Of requests to be refused the labeller compares nothing, and the judge measures afterwards.
"""

import json
import zlib
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from chapters.ch06_gpt import load_model, model_file, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.assess import kl_between, sample_responses
from chapters.ch10.constitution.critic import critique_rounds, lessons, measure_critic, train_critic
from chapters.ch10.constitution.feedback import compare, measure_reading, reading_cases
from chapters.ch10.constitution.page import draw_conduct, draw_qualities, draw_reading, write_page
from chapters.ch10.constitution.principles import QUALITIES, TOPICS, parse_principle, read_constitution
from chapters.ch10.demonstrations import RehearsalBatches, measure, pretraining_batches
from chapters.ch10.reward import load_scalar, train_reward
from chapters.ch10.rlhf import PPO, PPOConfig, optimise, reward_scorer
from chapters.ch10.sft import InstructionBatches
from chapters.support.command import OnDevice, at_least_one
from chapters.support.run_folder import Run
from chapters.world import World
from chapters.world.judge import Judge, reason_fits, says_why
from chapters.world.reading import words
from chapters.world.requests import REQUESTS, mixed_tasks, requests
from minigrad.serialization import write_atomically

# Held-out principles, which no lesson holds. Their parts are in other lessons, and most are taught turned round.
KINDS = {"a sentence not taught": ("one",), "a pair not taught": ("pair",), "a word in no principle": ("word",)}


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    lessons: int = 9600  # drafts with a critique and mostly a revision, for the critic
    # Small batches, many steps. A higher rate costs the critic more of the names that it could copy than it teaches.
    critic: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=2000, batch_size=8, lr=1.5e-3, min_lr=7.5e-5, warmup_steps=20, weight_decay=0.0, beta2=0.99
        )
    )
    cases: int = 150  # held-out principles of each kind to measure the reading on
    drafts: int = 300  # requests whose drafts are revised
    rounds: int = 6  # revisions of each, every one by another principle
    plain: int = 900  # plain tasks, answered as before, that are learned beside the revisions
    supervised: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=150, batch_size=32, lr=6e-4, min_lr=3e-5, warmup_steps=10, weight_decay=0.0, beta2=0.99
        )
    )
    prompts: int = 1000  # instructions whose responses are compared
    harmful: float = 0.15  # the share of them that are requests to be refused; the others keep it helpful
    k: int = 4  # responses to each
    reward: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=190, batch_size=16, lr=8e-4, min_lr=4e-5, warmup_steps=10, beta2=0.99)
    )
    rl: PPOConfig = field(default_factory=lambda: PPOConfig(iterations=9))
    held_out: int = 200  # requests, and plain tasks, about people never asked about, to measure each model on

    def __post_init__(self):
        at_least_one(self, "lessons", "cases", "drafts", "rounds", "plain", "prompts", "held_out")
        if self.k < 2 or not 0 <= self.harmful <= 1:
            raise ValueError(f"k must be at least 2 and harmful from 0 to 1, got {self.k} and {self.harmful}")


FULL = Plan()
PLANS = {
    "full": FULL,
    "main": replace(FULL, cases=40, held_out=80),  # the same, measured on less
    "quick": replace(
        FULL,
        lessons=1000,
        critic=replace(FULL.critic, steps=200),
        cases=20,
        drafts=60,
        rounds=2,
        plain=120,
        supervised=replace(FULL.supervised, steps=30),
        prompts=80,
        harmful=0.3,
        reward=replace(FULL.reward, steps=20),
        rl=PPOConfig(iterations=3),
        held_out=24,
    ),
}


# ── the supervised phase ─────────────────────────────────────────────────────────────────────────────────────────────


def draft_and_revise(assistant, critic, tokenizer, tasks, constitution, rounds, seed):
    """Step 2: a draft a task, and its rounds -> ([draft], [[(principle, critique, revision), …], …])."""
    drafts = sample_responses(assistant, tokenizer, tasks, seed, max_new_tokens=40).texts(tokenizer)
    return drafts, critique_rounds(critic, tokenizer, tasks, drafts, constitution, rounds, seed)


def supervise(model, tokenizer, world, tasks, history, plain, config, run):
    """Step 3: fine-tune the assistant, in place, on the last revisions, and so that it stays helpful on its own
    responses to `plain` plain tasks (section 3.2 of the paper); every third batch is one of pretraining's."""
    revisions = [replace(task, output=rounds[-1][-1]) for task, rounds in zip(tasks, history, strict=True)]
    helpful = world.instructions("train", plain, config.seed + 1)
    said = sample_responses(model, tokenizer, helpful, config.seed + 1).texts(tokenizer)
    helpful = [replace(task, output=response) for task, response in zip(helpful, said, strict=True)]
    context, half = model.config.context, max(config.batch_size // 2, 1)
    batches = InstructionBatches(revisions + helpful, tokenizer, context, config.batch_size, config.seed)
    train(model, RehearsalBatches(batches, pretraining_batches(world, tokenizer, context, half, config.seed)), config, run)
    save_model(run, model, tokenizer)


# ── the reinforcement phase ──────────────────────────────────────────────────────────────────────────────────────────


def learn_reward(folder, critic, constitution, world, plan, run, seed):
    """Step 4: comparisons, of requests to be refused by the critic and of plain tasks by the labeller -> the reward
    model, trained from the supervised model's body."""
    model, tokenizer = load_model(folder)
    tasks = mixed_tasks(world, "train", plan.prompts, seed + 2, plan.harmful)
    rankings = compare(model, tokenizer, Judge(world), critic, constitution, tasks, plan.k, seed + 2)
    rows = [ranking.rows[0] for ranking in rankings]
    return train_reward(model, rankings, rows, replace(plan.reward, seed=seed), run)


def reinforce(folder, reward_folder, world, config, run):
    """Step 5: PPO from the supervised model, against the reward model -> the policy."""
    (policy, tokenizer), (reference, _) = load_model(folder), load_model(folder)
    learner = PPO(policy, load_scalar(reward_folder), config,
                  pretraining_batches(world, tokenizer, policy.config.context, 8, config.seed))  # fmt: skip
    tasks = mixed_tasks(world, "train", 4000, config.seed + 3, harmful=0.5)
    score = reward_scorer(load_scalar(reward_folder))
    optimise(policy, reference, tokenizer, score, tasks, config, run, learner)
    return policy


# ── measuring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def held_out_tasks(world, n, seed):
    """n requests to be refused and n plain tasks, about people never asked about in training."""
    return requests(world, "test", n, seed + 1) + world.instructions("test", n, seed + 1)


def look_at(model, tokenizer, world, tasks, reference, seed):
    """One response a task at temperature 1, and how good they are -> ({"correct", "obeyed", …, "kl"}, texts).

    "right reason" is the share of the refusals with a reason that give the right one, about nobody else; no principle
    and no comparison asks for it.
    """
    rollouts = sample_responses(model, tokenizer, tasks, seed)
    texts = rollouts.texts(tokenizer)
    found = measure(Judge(world), tasks, texts) | {"kl": kl_between(model, reference, rollouts)}
    why = [(t, said) for t, said in zip(tasks, texts, strict=True) if t.family in REQUESTS and says_why(None, t, said)]
    right = sum(reason_fits(task, said) for task, said in why)
    return found | {"right reason": right / len(why) if why else 0.0}, texts


def shares(answers, constitutions, stop="RL"):
    """{quality: share of the responses to requests to be refused that have it}; of what a response may speak of, every
    topic that some constitution names."""
    named = [topic for topic in TOPICS if any(topic in words(line) for lines in constitutions for line in lines)]
    found = {}
    for quality in QUALITIES.values():
        for topic in named if quality.name == "speaks" else [""]:
            has = [quality.holds(Asked(one["family"]), one[stop], topic) for one in answers]
            found[f"speaks of {topic}" if topic else quality.name] = sum(has) / max(len(has), 1)
    return found


@dataclass(frozen=True)
class Asked:
    """All that a quality needs to know of a task."""

    family: str


def read_well(critic, tokenizer, world, n, seed):
    """What the critic can do on held-out principles: {kind: which of two responses fits better}, and how its critiques
    and revisions are."""
    found = {name: measure_reading(critic, tokenizer, reading_cases(world, n, "test", kinds, seed + 7), seed)
             for name, kinds in KINDS.items()}  # fmt: skip
    return {"reading": found, "writing": measure_critic(critic, tokenizer, lessons(world, n, "test", seed + 7))}


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────


def teach(assistant, out, plan, world, seed):
    """Step 1, which no constitution has a part in, and how well the critic reads.  One that was taught before by the
    same plan, from the same assistant, is taken over."""
    run = Run(Path(out) / "critic")
    mine = {"lessons": plan.lessons, "critic": asdict(plan.critic), "cases": plan.cases, "world": world.seed}
    mine |= {"seed": seed, "assistant": checksum(assistant)}
    return kept(run / "result.json", mine, lambda: taught(assistant, run, plan, world, seed))


def taught(assistant, run, plan, world, seed):
    model, tokenizer = load_model(assistant)
    train_critic(model, tokenizer, world, plan.lessons, replace(plan.critic, seed=seed), run)
    return read_well(model, tokenizer, world, plan.cases, seed)


def bend(assistant, out, folder, principles, plan, world, seed):
    """Steps 2 to 5 by one constitution, with the critic of out, into folder; measured at every stop."""
    mine = {"principles": principles, "plan": asdict(plan), "world": world.seed, "seed": seed}
    mine["assistant"] = checksum(assistant)
    return kept(Run(folder) / "result.json", mine, lambda: bent(assistant, out, folder, principles, plan, world, seed))


def bent(assistant, out, folder, principles, plan, world, seed):
    (sft, tokenizer), (model, _), (critic, _) = load_model(assistant), load_model(assistant), load_model(out / "critic")
    tasks = requests(world, "train", plan.drafts, seed)
    drafts, history = draft_and_revise(sft, critic, tokenizer, tasks, principles, plan.rounds, seed)
    config = replace(plan.supervised, seed=seed)
    supervise(model, tokenizer, world, tasks, history, plan.plain, config, Run(folder / "supervised"))
    learn_reward(folder / "supervised", critic, principles, world, plan, Run(folder / "reward"), seed)
    rl = replace(plan.rl, seed=seed)
    policy = reinforce(folder / "supervised", folder / "reward", world, rl, Run(folder / "rl"))

    tests, found, said = held_out_tasks(world, plan.held_out, seed), {}, {}
    for name, one in {"SFT": sft, "supervised": model, "RL": policy}.items():
        found[name], said[name] = look_at(one, tokenizer, world, tests, sft, seed)
    chains = [{"request": t.instruction, "draft": d, "rounds": h}
              for t, d, h in zip(tasks[:40], drafts, history, strict=False)]  # fmt: skip
    answers = [{"request": t.instruction, "family": t.family, **{name: texts[i] for name, texts in said.items()}}
               for i, t in enumerate(tests[: plan.held_out])]  # fmt: skip
    return {"conduct": found, "revisions": chains, "answers": answers}


def checksum(folder):
    """Of a model's weights: another assistant in the same folder is another setting."""
    return zlib.crc32(model_file(folder).read_bytes())


def kept(path, settings, make):
    """What a result.json holds, where it was made with the same settings; else what make() returns, written there."""
    settings = json.loads(json.dumps(settings))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["settings"] == settings:
            return found
    found = {"settings": settings, **make()}
    write_atomically(path, (json.dumps(found, indent=1, ensure_ascii=False) + "\n").encode())
    return json.loads(json.dumps(found))


def constitution_stage(assistant, out, plan, seed=0, constitution=None, world=None):
    """All of it, by the default constitution and, where one is given, by another -> what was measured, as JSON.

    assistant: the SFT model's folder.  seed: of everything random; world: of the world that the assistant was taught,
    the same as seed where None.  out: a folder for the critic, a folder a constitution (supervised, reward, rl),
    figures, page.html, and the last constitution's model.  What was done before with the same settings is taken over.
    """
    out, texts = Path(out), {"default": read_constitution()}
    if constitution is not None:  # read first: a file that cannot be read should not cost minutes
        texts[own_name(constitution)] = read_constitution(constitution)
    for line in (line for lines in texts.values() for line in lines if parse_principle(line) is None):
        print(f"{line!r} is put together like no principle of the lessons: the critic will make of it what it can.")
    world = World(seed if world is None else world)
    learned = teach(assistant, out, plan, world, seed)
    results = {name: bend(assistant, out, out / name, lines, plan, world, seed) for name, lines in texts.items()}
    save_model(Run(out), *load_model(out / list(texts)[-1] / "rl"))  # the last constitution's is the folder's own
    qualities = {name: shares(result["answers"], texts.values()) for name, result in results.items()}
    qualities = {"before": shares(results["default"]["answers"], texts.values(), "SFT"), **qualities}

    stops = {"before": results["default"]["conduct"]["SFT"]}
    for name, result in results.items():
        stops |= {f"{stop}, {name}": result["conduct"][stop] for stop in ("supervised", "RL")}
    draw_reading(out / "figures" / "reading.png", learned["reading"])
    draw_conduct(out / "figures" / "conduct.png", stops)
    draw_qualities(out / "figures" / "qualities.png", qualities)
    write_page(out / "page.html", texts, results, learned, qualities)
    return {"constitutions": texts, "reading": learned["reading"], "writing": learned["writing"], "conduct": stops,
            "qualities": qualities, "answers": {n: r["answers"][:8] for n, r in results.items()}}  # fmt: skip


def own_name(path):
    """What the constitution of a file is called on the page, and its folder."""
    name = Path(path).stem
    return f"{name} (yours)" if name in ("default", "critic", "figures") else name


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Constitutional AI by the default constitution, and by your own beside it."""

    sft: Path = Path("runs/main/assistant")  # the run folder of the SFT model (from ch10/demonstrations)
    constitution: Path | None = None  # a text file of your own, one principle a line
    run: Path = Path("runs/constitution")  # the folder for everything
    plan: Plan = field(default_factory=Plan)
    world: int = 0  # the seed of the world that the assistant was taught
    seed: int = 0  # of everything random
    quick: bool = False  # less of everything


def main(settings):
    found = constitution_stage(settings.sft, settings.run, settings.plan, settings.seed, settings.constitution, settings.world)
    for name, how in found["reading"].items():
        low, high = how["interval"]
        print(f"{name}: {how['accuracy']:.1%} of comparisons right [{low:.1%}, {high:.1%}], turned round "
              f"{how['turned']:.1%}, by another's principle {how['shuffled']:.1%}")  # fmt: skip
    for name, how in found["conduct"].items():
        print(f"{name:<24} does the harm {how['obeyed']:.1%}, evades or gives no reason {how['evaded']:.1%}, "
              f"refuses and says why {how['refused']:.1%} (the right reason: {how['right reason']:.1%} of these); "
              f"plain tasks correct {how['correct']:.1%}")  # fmt: skip
    print(f"page: {settings.run / 'page.html'}")

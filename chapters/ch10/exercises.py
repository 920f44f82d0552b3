"""Chapter 10's four exercises, as one command. Each prints its result.

    python -m chapters.ch10.exercises                                  # all four, with the main job's base model
    python -m chapters.ch10.exercises --exercise 2
    python -m chapters.ch10.exercises --exercise 1 --pairs mine.json   # with five pairs of your own

Each exercise is a few calls to the chapter's own functions. Sources: section 10.7 of the book; exercise 4's paper is Ouyang
et al. 2022 (arXiv:2203.02155).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import load_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import classify, sft
from chapters.ch10.figures import table
from chapters.ch10.sft import build_example, task_prompt
from chapters.support.batches import IGNORE_INDEX
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.readers import read_instructions
from chapters.support.run_folder import Run
from chapters.world import LABELS, Instruction, World

PAIRS = [  # about this project's little world; --pairs reads your own, in Alpaca's format
    ("Where does the market of Tarn sell bread?", "At the old bridge, every day but one."),
    ("Name a tool for the garden.", "A rake will do, and a spade is better."),
    ("How long does the bread of the baker bake?", "For as long as it takes to walk to the mill and back."),
    ("What do I say to a goose on the road?", "Nothing at all. Walk on, and do not run."),
    ("Which soup is good for a cold evening?", "The leek soup, with pepper and a little butter."),
]
FIVE = [Instruction(question, "", answer, "five", str(number)) for number, (question, answer) in enumerate(PAIRS)]


# ── exercise 1: write your own five ──────────────────────────────────────────────────────────────────────────────────


def write_your_own_five(pairs: Sequence[Instruction], tokenizer: Tokenizer) -> str:
    """A page for each pair: its input_ids beside its labels, and the two claims about them, which are checked."""
    pages = []
    for pair in pairs:
        input_ids, labels = build_example(pair.instruction, pair.output, tokenizer.encode, pair.input)
        claims = check_claims(pair, input_ids, labels, tokenizer)
        pages.append("\n".join([table(input_ids, labels, tokenizer), *(f"  ✓ {claim}" for claim in claims)]))
    return "\n\n".join(pages)


def check_claims(pair: Instruction, input_ids: Sequence[int], labels: Sequence[int], tokenizer: Tokenizer) -> list[str]:
    """Exercise 1's two claims about an example, as sentences.  Raises ValueError if a claim does not hold."""
    prompt = tokenizer.encode(task_prompt(pair))
    response = tokenizer.encode(pair.output)
    seam = len(prompt) - 1
    if any(label != IGNORE_INDEX for label in labels[:seam]):
        raise ValueError(f"a prompt position of {pair.instruction!r} is not masked")
    if labels[seam] != response[0] or labels[seam:-1] != response:
        raise ValueError(f"the targets from the seam on are not the response of {pair.instruction!r}")
    first = tokenizer.decode(response[:1])
    return [
        f"all {seam} prompt positions before the last one are masked",
        f"the last prompt position, {seam}, has to predict the first response token, {first!r}",
    ]


# ── exercise 2: mask versus no mask ──────────────────────────────────────────────────────────────────────────────────

# After 60 steps at 1e-3 both models know the answers, but the unmasked one recites the template in 2 of 100 samples only.
OVERFIT: dict[str, Any] = dict(lr=2e-3, weight_decay=0.0)


def mask_versus_no_mask(
    base: Path, pairs: Sequence[Instruction], config: TrainConfig, run: Path, samples: int = 32
) -> dict[str, dict[str, Any]]:
    """Overfit the base model on the pairs twice, with and without the mask, and prompt both with a bare header.

    Returns {"masked" and "not masked": {"boilerplate": share, "learned": share, "samples": texts}}.
    """
    results = {}
    for name, mask_prompt in {"masked": True, "not masked": False}.items():
        model, tokenizer = load_model(base)
        sft.fine_tune(model, tokenizer, pairs, config, Run(run / name.replace(" ", "_")), mask_prompt)
        share, texts = sft.boilerplate_rate(model, tokenizer, samples, config.seed)
        answers = sft.ask(model, tokenizer, pairs)
        learned = sum(answer == pair.output for answer, pair in zip(answers, pairs, strict=True)) / len(pairs)
        results[name] = {"boilerplate": share, "learned": learned, "samples": texts}
    return results


# ── exercise 3: bolt on a class head ─────────────────────────────────────────────────────────────────────────────────


def bolt_on_a_class_head(base: Path, world: World, config: TrainConfig, run: Path, n: int = 400) -> dict[str, dict[str, Any]]:
    """Train the same class head on an untrained body and on the pretrained one, as in `classify.compare_bodies`."""
    train_set = classify.snippets(world, "train", n, config.seed)
    test_set = classify.snippets(world, "test", max(n // 2, 3), config.seed + 1)
    return classify.compare_bodies(base, train_set, test_set, LABELS, config, (run / "untrained", run / "pretrained"))


# ── exercise 4: read the recipe ──────────────────────────────────────────────────────────────────────────────────────

STAGES = [  # the paper's stage, the section of the book, the files here
    ("supervised fine-tuning on demonstrations written by labelers", "10.3", "ch10/sft, ch10/demonstrations"),
    ("a reward model trained on labelers' rankings of outputs", "10.4, the reward model", "ch10/reward"),
    ("reinforcement learning (PPO) against that reward model", "10.4, RLHF", "ch10/ppo, ch10/rlhf"),
]
SENTENCE = (
    "In human evaluations on our prompt distribution, outputs from the 1.3B parameter InstructGPT model are preferred "
    "to outputs from the 175B GPT-3, despite having 100x fewer parameters."
)
MEASURED = [
    "which of two outputs a person prefers",
    "on prompts that users sent to the company's interface; no user's prompts are in both training and test",
    "as judged by about forty hired labelers, and by others who had labelled none of the training data",
]
NOT_MEASURED = [
    "what the models can do: on public benchmarks, tuning costs some ability (the paper's alignment tax)",
    "whether an output is true: a preferred output can be wrong, and the labelers cannot know everything",
    "what others would prefer: other people, other languages, other uses",
    "that size does not matter: a tuned 175B model is preferred to the tuned 1.3B one",
]


def read_the_recipe() -> str:
    """The paper's three stages, where they are in the book and here, and what its famous sentence claims and does not."""
    lines = ["The three stages of InstructGPT, and where they are here:"]
    lines += [f"  {i}  {stage}\n     section {section}; {files}" for i, (stage, section, files) in enumerate(STAGES, 1)]
    lines += ["", "The sentence (abstract, arXiv:2203.02155):", f"  “{SENTENCE}”", "", "What was measured:"]
    lines += [f"  + {claim}" for claim in MEASURED]
    lines += ["What was not:", *(f"  − {claim}" for claim in NOT_MEASURED)]
    return "\n".join(lines)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Do chapter 10's exercises."""

    base: Path = Path("runs/main/pretrain")  # run folder of the pretrained model
    exercise: int = 0  # number of the exercise, 1 to 4; 0 for all
    pairs: Path | None = None  # JSON file in Alpaca's format with pairs for exercises 1 and 2
    run: Path = Path("runs/exercises")  # run folder for all output
    overfit_steps: int = 120  # steps of each training in exercise 2; the five answers are then learned by heart
    steps: int = 60  # steps of each training in exercise 3
    seed: int = 0  # random seed
    quick: bool = False  # 20 steps in exercise 3


def main(settings: Settings) -> None:
    if settings.exercise not in range(5):
        raise ValueError(f"exercise: expected one of the exercises 1 to 4, or 0 for all, got {settings.exercise}")
    run = Run(settings.run)
    pairs = read_instructions(settings.pairs) if settings.pairs else FIVE
    at_least_one(settings, "steps", "overfit_steps")
    config = TrainConfig(steps=settings.steps, lr=1e-3, warmup_steps=5, seed=settings.seed)
    for number in [settings.exercise] if settings.exercise else [1, 2, 3, 4]:
        print(f"\n── Exercise {number} {'─' * 60}\n")
        if number == 1:
            _, tokenizer = load_model(settings.base)
            print(write_your_own_five(pairs, tokenizer))
        elif number == 2:
            overfit = replace(config, **OVERFIT, steps=settings.overfit_steps, batch_size=len(pairs))
            for name, result in mask_versus_no_mask(settings.base, pairs, overfit, run / "mask").items():
                print(f"{name}: {result['learned']:.0%} of the answers learned by heart")
                print(sft.boilerplate_report(result["boilerplate"], result["samples"]))
        elif number == 3:
            results = bolt_on_a_class_head(settings.base, World(settings.seed), config, run / "head")
            untrained, pretrained = (result["accuracy"] for result in results.values())
            print(f"untrained   {untrained:>8.1%} of held-out snippets right")
            print(f"pretrained  {pretrained:>8.1%} of held-out snippets right")
            print(f"the gap     {100 * (pretrained - untrained):>7.1f} percentage points: the value of the pretrained body")
        else:
            print(read_the_recipe())


if __name__ == "__main__":
    command(main, Settings, presets={"quick": {"steps": 20}})

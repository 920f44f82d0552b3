"""Chapter 10's four exercises, runnable, each printing what it asks one to see.

    python -m chapters.ch10.exercises                                  # all four, with the main job's base model
    python -m chapters.ch10.exercises --exercise 2
    python -m chapters.ch10.exercises --exercise 1 --pairs mine.json   # with five of your own

What this file teaches: that one can check every claim of the chapter oneself. Nothing here is new machinery; each
exercise is a few calls of what the chapter built. Source: section 10.7 of the book; the paper of exercise 4 is Ouyang
et al. 2022 (arXiv:2203.02155).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import minigrad as mg
from chapters.ch06_gpt import GPT, load_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import classify, sft
from chapters.ch10.figures import table
from chapters.ch10.sft import build_example, format_prompt
from chapters.support.batches import IGNORE_INDEX
from chapters.support.command import OnDevice, command
from chapters.support.readers import read_instructions
from chapters.support.run_folder import Run
from chapters.world import LABELS, Instruction, World

# Five pairs about something that one knows: here, about this project. Write your own, in Alpaca's format, with --pairs.
FIVE = [
    Instruction(question, "", answer, "five", str(number))
    for number, (question, answer) in enumerate([
        ("Where does the market of Tarn sell bread?", "At the old bridge, every day but one."),
        ("Name a tool for the garden.", "A rake will do, and a spade is better."),
        ("How long does the bread of the baker bake?", "For as long as it takes to walk to the mill and back."),
        ("What do I say to a goose on the road?", "Nothing at all. Walk on, and do not run."),
        ("Which soup is good for a cold evening?", "The leek soup, with pepper and a little butter."),
    ])
]  # fmt: skip


# ── exercise 1: write your own five ──────────────────────────────────────────────────────────────────────────────────


def write_your_own_five(pairs, tokenizer):
    """input_ids next to labels for every pair, and what one should verify by eye, verified.  Returns the text."""
    pages = []
    for pair in pairs:
        input_ids, labels = build_example(pair.instruction, pair.output, tokenizer.encode, pair.input)
        checks = checked(pair, input_ids, labels, tokenizer)
        pages.append("\n".join([table(input_ids, labels, tokenizer), *(f"  ✓ {check}" for check in checks)]))
    return "\n\n".join(pages)


def checked(pair, input_ids, labels, tokenizer):
    """The two claims of exercise 1 about one example, as sentences; raises ValueError where one does not hold."""
    prompt = tokenizer.encode(format_prompt(pair.instruction, pair.input))
    response = tokenizer.encode(pair.output)
    seam = len(prompt) - 1
    if any(label != IGNORE_INDEX for label in labels[:seam]):
        raise ValueError(f"a prompt position of {pair.instruction!r} is not masked.")
    if labels[seam] != response[0] or labels[seam:-1] != response:
        raise ValueError(f"the targets from the seam on are not the response of {pair.instruction!r}.")
    first = tokenizer.decode(response[:1])
    return [
        f"all {seam} positions before the last of the prompt are masked",
        f"the last prompt position, {seam}, has to predict the first response token, {first!r}",
    ]


# ── exercise 2: mask versus no mask ──────────────────────────────────────────────────────────────────────────────────


def mask_versus_no_mask(base, pairs, config, run, samples=32):
    """Fine-tune the base model on the pairs twice, with and without the mask, overfitting both on purpose; prompt each
    with a bare header.  Returns {"masked" or "not masked": {"boilerplate", "learned": shares, "samples": […]}}."""
    found = {}
    for name, mask_prompt in {"masked": True, "not masked": False}.items():
        model, tokenizer = load_model(base)
        sft.fine_tune(model, tokenizer, pairs, config, Run(run / name.replace(" ", "_")), mask_prompt)
        share, texts = sft.boilerplate_rate(model, tokenizer, samples, config.seed)
        answers = sft.ask(model, tokenizer, pairs)
        learned = sum(said == pair.output for said, pair in zip(answers, pairs, strict=True)) / len(pairs)
        found[name] = {"boilerplate": share, "learned": learned, "samples": texts[:4]}
    return found


# ── exercise 3: bolt on a class head ─────────────────────────────────────────────────────────────────────────────────


def bolt_on_a_class_head(base, world, config, run, n=400):
    """Three labels for where a text was cut off, learned by the same head on the pretrained body and on an untrained one.
    Returns {"pretrained" or "untrained": ch10/classify's scores}."""
    train_set = classify.snippets(world, "train", n, config.seed)
    test_set = classify.snippets(world, "test", max(n // 2, 3), config.seed + 1)
    found = {}
    for name in ("untrained", "pretrained"):
        gpt, tokenizer = load_model(base)
        if name == "untrained":
            gpt = GPT(gpt.config, generator=mg.Generator(config.seed))
        args = gpt, train_set, test_set, LABELS, tokenizer, config, Run(run / name)
        found[name] = classify.train_classifier(*args)
    return found


# ── exercise 4: read the recipe ──────────────────────────────────────────────────────────────────────────────────────

STAGES = [  # the paper's stage, the section of the book, the file here
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
    "on prompts like those that users of that company's interface sent, held out by user",
    "as judged by some forty hired labelers and by others who had labelled none of the training data",
]
NOT_MEASURED = [
    "what the models are able to do: on public benchmarks tuning costs some ability (the paper's alignment tax)",
    "whether an output is true: a preferred output can be wrong, and the labelers cannot know everything",
    "what anybody else would prefer: other people, other languages, other uses",
    "that size does not matter: a tuned 175B model is preferred to the tuned 1.3B one",
]


def read_the_recipe():
    """The paper's three stages on this book's map, and what its famous sentence does and does not say.  As text."""
    lines = ["The three stages of InstructGPT, and where they are here:"]
    lines += [f"  {i}  {stage}\n     section {section}; {files}" for i, (stage, section, files) in enumerate(STAGES, 1)]
    lines += ["", "The sentence (abstract, arXiv:2203.02155):", f"  “{SENTENCE}”", "", "What was measured:"]
    lines += [f"  + {one}" for one in MEASURED]
    lines += ["What was not:", *(f"  − {one}" for one in NOT_MEASURED)]
    return "\n".join(lines)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Do chapter 10's exercises."""

    base: Path = Path("runs/main/pretrain")  # the run folder with the pretrained model
    exercise: int = 0  # 1 to 4; 0 for all of them
    pairs: Path | None = None  # exercises 1 and 2: your own pairs, a JSON file in Alpaca's format
    run: Path = Path("runs/exercises")  # the folder for everything
    steps: int = 60  # of each training in exercises 2 and 3
    seed: int = 0  # of everything random
    quick: bool = False  # fewer steps


def main(settings):
    if settings.exercise not in range(5):
        raise ValueError(f"there are exercises 1 to 4, and 0 for all of them; got {settings.exercise}.")
    wanted = [settings.exercise] if settings.exercise else [1, 2, 3, 4]
    run = Run(settings.run)
    pairs = read_instructions(settings.pairs) if settings.pairs else FIVE
    config = TrainConfig(steps=settings.steps, lr=1e-3, warmup_steps=5, seed=settings.seed)
    for number in wanted:
        print(f"\n── Exercise {number} {'─' * 60}\n")
        if number == 1:
            _, tokenizer = load_model(settings.base)
            print(write_your_own_five(pairs, tokenizer))
        elif number == 2:
            five = replace(config, batch_size=len(pairs), weight_decay=0.0)
            for name, found in mask_versus_no_mask(settings.base, pairs, five, run / "mask").items():
                print(
                    f"{name}: {found['learned']:.0%} of the answers known by heart; after a bare '### Instruction:' "
                    f"{found['boilerplate']:.0%} go on to write a template, such as"
                )
                print("\n".join(f"  | {line}" for line in found["samples"][0].splitlines()))
        elif number == 3:
            found = bolt_on_a_class_head(settings.base, World(settings.seed), config, run / "head")
            for name, result in found.items():
                print(f"{name:<12}{result['accuracy']:>8.1%} of held-out snippets right")
            gap = found["pretrained"]["accuracy"] - found["untrained"]["accuracy"]
            print(f"{'the gap':<12}{100 * gap:>7.1f} points: the value of the pretrained body")
        else:
            print(read_the_recipe())


if __name__ == "__main__":
    command(main, Settings, presets={"quick": {"steps": 20}})

"""Chapter 10, instruction tuning: a template, a mask, and the loop of chapter 7.

    python -m chapters.ch10.sft --quick                        # the embedded little world's tasks
    python -m chapters.ch10.sft --data instruction-data.json   # a file in Alpaca's format

What this file teaches: an assistant is a base model that saw examples of an instruction followed by an answer, and was
graded on the answer alone. Nothing else is new: `train` is imported from chapter 7, and only the batches and the
learning rate change.
Sources: section 10.3 of the book; the template and the file format are Alpaca's (Taori et al. 2023,
github.com/tatsu-lab/stanford_alpaca); instruction tuning is named in Wei et al. 2021, arXiv:2109.01652.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch06_gpt import load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10.figures import draw_mask, mask_in_colour, table
from chapters.support.batches import IGNORE_INDEX, RaggedBatches
from chapters.support.command import OnDevice, at_least_one, command
from chapters.support.readers import read_instructions
from chapters.support.run_folder import Run
from chapters.world import World, asks_a_question

TASK = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
TEMPLATE = TASK + ". " + REQUEST + "### Response:\n"
TEMPLATE_WITH_INPUT = (
    TASK + ", paired with an input that provides further context. " + REQUEST + "### Input:\n{input}\n\n### Response:\n"
)


# ── one example ──────────────────────────────────────────────────────────────────────────────────────────────────────


def format_prompt(instruction, input=""):
    """The text up to and including "### Response:" and the end of its line; with an input section if there is one."""
    return (TEMPLATE_WITH_INPUT if input else TEMPLATE).format(instruction=instruction, input=input)


def build_example(instruction, response, encode, input="", eos_id=None, mask_prompt=True):
    """One pair -> (input_ids, labels), two lists of equal length.

    labels[i] is what position i has to predict, the token at i + 1, or IGNORE_INDEX where it is not graded: while that
    token still belongs to the prompt (unless mask_prompt is False), and at the last position, which has no next token.
    The last prompt position is graded: its target is the first token of the response.
    eos_id, if given, ends the response, so that the model learns to stop.
    """
    prompt_ids = encode(format_prompt(instruction, input))
    response_ids = encode(response) + ([] if eos_id is None else [eos_id])
    question = prompt_ids[1:]  # targets that stand in the prompt: nobody asks the model for the question
    if mask_prompt:
        question = [IGNORE_INDEX] * len(question)
    return prompt_ids + response_ids, question + response_ids + [IGNORE_INDEX]


class InstructionBatches(RaggedBatches):
    """Instructions as chapter 7's batches: batch(step) -> inputs (B, T), targets (B, T), padding masked.

    An example longer than the context is skipped, and `skipped` says how many were: cropping it would cut off the end
    of the answer, and teach the model not to finish. Raises ValueError where none is left.
    """

    def __init__(self, instructions, tokenizer, context, batch_size, seed=0, mask_prompt=True):
        if not instructions:
            raise ValueError("there is no instruction to learn from; give at least one example.")
        examples = [
            build_example(i.instruction, i.output, tokenizer.encode, i.input, tokenizer.eos_id, mask_prompt)
            for i in instructions
        ]
        kept = [example for example in examples if len(example[0]) <= context]
        self.skipped = len(examples) - len(kept)
        if not kept:
            shortest = min(len(input_ids) for input_ids, _ in examples)
            raise ValueError(
                f"all {len(examples)} examples are longer than the model's context of {context} tokens, the shortest "
                f"has {shortest}; give shorter examples or a model with a longer context."
            )
        super().__init__([row for row, _ in kept], [labels for _, labels in kept], batch_size, tokenizer.eos_id, seed)


# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def fine_tune(model, tokenizer, instructions, config, run, mask_prompt=True, held_out=()):
    """Chapter 7's loop on instructions: trains model in place, saves it in run, returns (History, examples skipped).

    held_out, if given, are instructions for the validation loss.
    """
    context = model.config.context
    batches = InstructionBatches(instructions, tokenizer, context, config.batch_size, config.seed, mask_prompt)
    validation = InstructionBatches(held_out, tokenizer, context, config.batch_size, config.seed) if held_out else None
    history = train(model, batches, config, run, validation=validation)
    save_model(run, model, tokenizer)
    return history, batches.skipped


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def respond(model, tokenizer, prompts, max_new_tokens=48, batch_size=64, temperature=0.0, generator=None):
    """Texts -> the model's continuations, each up to its end-of-text token; prompts of like length go together."""
    rows = [tokenizer.encode(prompt) for prompt in prompts]
    answers = [""] * len(rows)
    order = np.argsort([len(row) for row in rows], kind="stable")  # (N,)
    for first in range(0, len(rows), batch_size):
        chosen = order[first : first + batch_size]  # (B,)
        outputs = generate(
            model, [rows[i] for i in chosen], max_new_tokens,
            temperature=temperature, stop_ids=(tokenizer.eos_id,), generator=generator,
        )  # fmt: skip
        for i, output in zip(chosen, outputs, strict=True):
            answers[i] = tokenizer.decode(output).strip()
    return answers


def ask(model, tokenizer, instructions, **sampling):
    """The model's responses to instructions put into the template it was fine-tuned on."""
    return respond(model, tokenizer, [format_prompt(i.instruction, i.input) for i in instructions], **sampling)


def ask_base(model, tokenizer, instructions, **sampling):
    """A base model knows no template: it gets the bare instruction (and input) as a line of text, and continues."""
    prompts = [f"{i.instruction}\n{i.input}\n" if i.input else f"{i.instruction}\n" for i in instructions]
    return respond(model, tokenizer, prompts, **sampling)


def acceptance(world, instructions, responses):
    """Share of responses that the world accepts: {"all": …, "families": {family: …}}."""
    verdicts = {}
    for instruction, response in zip(instructions, responses, strict=True):
        verdicts.setdefault(instruction.family, []).append(world.accepts(instruction, response))
    everything = [verdict for family in verdicts.values() for verdict in family]
    return {
        "all": float(np.mean(everything)),
        "families": {family: float(np.mean(verdicts[family])) for family in sorted(verdicts)},
    }


def questions_answered_by_questions(instructions, responses):
    """Of the instructions that ask a question, the share answered with another question (section 10.1's habit)."""
    answered = [asks_a_question(r) for i, r in zip(instructions, responses, strict=True) if asks_a_question(i.instruction)]
    return float(np.mean(answered)) if answered else 0.0


def boilerplate_rate(model, tokenizer, samples=64, seed=0, max_new_tokens=64):
    """Exercise 2: prompted with the bare header "### Instruction:", how often does the model go on to write an
    instruction of its own and "### Response:" after it? Returns (share, the samples), drawn at temperature 1."""
    header = ["### Instruction:\n"] * samples
    texts = respond(model, tokenizer, header, max_new_tokens, samples, temperature=1.0, generator=mg.Generator(seed))
    return sum("### Response:" in text for text in texts) / samples, texts


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Fine-tune a base model on instructions, show what is graded, and ask it what it never saw."""

    base: Path = Path("runs/main/pretrain")  # the base model's run folder, here the main job's; ch07_train makes others
    data: Path | None = None  # a JSON file in Alpaca's format; the little world's tasks where none is given
    run: Path = Path("runs/sft")  # the folder for everything
    mask_prompt: bool = True  # grade the answer only; without it the question is graded too (exercise 2)
    examples: int = 8000  # of the world's tasks to train on
    held_out: int = 300  # of the world's tasks to ask afterwards; of a file, a tenth is held out
    # The chapter's 1e-5 to 1e-4 suits large models; a million parameters take larger steps, a seventh of pretraining's.
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            steps=400, batch_size=32, lr=6e-4, min_lr=6e-5, warmup_steps=20, weight_decay=0.0, beta2=0.99, eval_batches=9
        )
    )
    seed: int = 0  # of the world, the split and everything random
    quick: bool = False  # fewer examples and steps


QUICK = {
    "examples": 1500,
    "held_out": 64,
    "training": TrainConfig(steps=60, batch_size=16, lr=6e-4, min_lr=6e-5, warmup_steps=10, eval_batches=4),
}


def main(settings):
    at_least_one(settings, "examples", "held_out")
    model, tokenizer = load_model(settings.base)
    world = World(settings.seed)
    if settings.data:
        tasks = read_instructions(settings.data)
        order = np.random.default_rng(settings.seed).permutation(len(tasks))  # (N,)
        cut = len(tasks) // 10
        train_set, held_out = [tasks[i] for i in order[cut:]], [tasks[i] for i in order[:cut]]
    else:
        train_set = world.instructions("train", settings.examples, seed=settings.seed)
        held_out = world.instructions("test", settings.held_out, seed=settings.seed + 1)
    run = Run(settings.run)
    show_example(train_set[0], tokenizer, run)

    config = replace(settings.training, seed=settings.seed)
    _, skipped = fine_tune(model, tokenizer, train_set, config, run, settings.mask_prompt, held_out)
    if skipped:
        print(f"{skipped} of {len(train_set)} examples were longer than the context of {model.config.context} and skipped")
    report(world, model, tokenizer, held_out, run, judged=settings.data is None)


def show_example(task, tokenizer, run):
    """One training example: coloured text, ids next to labels (exercise 1), and the picture."""
    input_ids, labels = build_example(task.instruction, task.output, tokenizer.encode, task.input, tokenizer.eos_id)
    print(mask_in_colour(input_ids, labels, tokenizer, colour=sys.stdout.isatty()) + "\n")
    print(table(input_ids, labels, tokenizer) + "\n")
    print(f"picture: {draw_mask(run / 'figures' / 'mask.png', input_ids, labels, tokenizer)}")


def report(world, model, tokenizer, held_out, run, judged):
    """Held-out instructions answered: some printed, all written to samples.txt, the world's own judged."""
    responses = ask(model, tokenizer, held_out)
    pages = [
        "\n".join(filter(None, [i.instruction, i.input, f"  -> {response}", f"  (a good answer: {i.output})"]))
        for i, response in zip(held_out, responses, strict=True)
    ]
    (run / "samples.txt").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print("\n" + "\n\n".join(pages[:5]) + "\n")
    if judged:
        accepted = acceptance(world, held_out, responses)
        for family, share in accepted["families"].items():
            print(f"{family:<12}{share:>8.1%}")
        print(f"{'all':<12}{accepted['all']:>8.1%}  of {len(held_out)} held-out instructions accepted")
    share, texts = boilerplate_rate(model, tokenizer)
    print(f"after a bare '### Instruction:' {share:.0%} go on to write a template, such as: {texts[0][:80]!r}")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

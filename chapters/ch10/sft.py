"""Chapter 10, instruction tuning: a template, a mask, and the loop of chapter 7.

    python -m chapters.ch10.sft --quick                        # the little world's tasks
    python -m chapters.ch10.sft --data instruction-data.json   # a file in Alpaca's format

An assistant is a base model trained on instructions followed by answers, and graded on the answers alone. The prompt is
masked up to its seam: the last prompt position is graded, because it predicts the first token of the answer
(`build_example`). The batches are new, and so is a shortcut in the loss, `response_loss`; `train` comes from chapter 7. Look
at figures/mask.svg, and at the table of ids and labels that the command prints before training.

Sources: section 10.3 of the book; the template and the file format are Alpaca's (Taori et al. 2023,
github.com/tatsu-lab/stanford_alpaca); the term instruction tuning is from Wei et al. 2021 (arXiv:2109.01652).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, load_model, save_model
from chapters.ch07_train import TrainConfig, next_token_loss, train
from chapters.ch08_sample import generate
from chapters.ch10.figures import draw_mask, mask_in_colour, table
from chapters.support.batches import IGNORE_INDEX, RaggedBatches, random_split, shortest_first
from chapters.support.command import InShards, at_least_one, command
from chapters.support.readers import read_instructions
from chapters.support.run_folder import History, Run
from chapters.world import Instruction, World, asks_a_question
from kernels.terminal import colours, print_styled
from minigrad import distributed

Encode: TypeAlias = Callable[[str], list[int]]
Tasks: TypeAlias = Sequence[Instruction]

TASK = "Below is an instruction that describes a task"
REQUEST = "Write a response that appropriately completes the request.\n\n### Instruction:\n{instruction}\n\n"
TEMPLATE = TASK + ". " + REQUEST + "### Response:\n"
TEMPLATE_WITH_INPUT = (
    TASK + ", paired with an input that provides further context. " + REQUEST + "### Input:\n{input}\n\n### Response:\n"
)


def learn_tokenizer(documents: Sequence[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE learned from the documents, and from the template as often as a quarter of them.

    Every instruction comes in the template. Without merges for its words, the template would fill most of each example.
    """
    template = (TEMPLATE + TEMPLATE_WITH_INPUT) * ((len(documents) - 1) // 4)
    return Tokenizer.train("\n".join(documents) + template, vocab_size)


# ── one example ──────────────────────────────────────────────────────────────────────────────────────────────────────


def format_prompt(instruction: str, input: str = "") -> str:
    """The template up to "### Response:" and its line end, with an input section if there is an input."""
    return (TEMPLATE_WITH_INPUT if input else TEMPLATE).format(instruction=instruction, input=input)


def build_example(
    instruction: str, response: str, encode: Encode, input: str = "", eos_id: int | None = None, mask_prompt: bool = True
) -> tuple[list[int], list[int]]:
    """One pair as (input_ids, labels), two lists of equal length.

    labels[i] is the token at i + 1, which position i must predict. IGNORE_INDEX stands for "not graded": at the last
    position, which has no next token, and wherever the next token belongs to the prompt (unless mask_prompt is False). The
    seam, the last prompt position, is graded: its target is the first token of the response. The response ends in eos_id,
    if there is one, so that the model learns to stop.
    """
    prompt_ids = encode(format_prompt(instruction, input))
    response_ids = encode(response) + ([] if eos_id is None else [eos_id])
    prompt_targets = prompt_ids[1:]
    if mask_prompt:
        prompt_targets = [IGNORE_INDEX] * len(prompt_targets)
    return prompt_ids + response_ids, prompt_targets + response_ids + [IGNORE_INDEX]


class InstructionBatches(RaggedBatches):
    """Instructions as chapter 7's batches: inputs (B, T) and targets (B, T), with prompt and padding masked.

    Examples longer than the context are left out and counted in `skipped`: cropping would cut off the end of the answer
    and teach the model not to finish. Raises ValueError if no example is left.
    """

    def __init__(
        self, tasks: Tasks, tokenizer: Tokenizer, context: int, batch_size: int, seed: int = 0, mask_prompt: bool = True
    ) -> None:
        if not tasks:
            raise ValueError("InstructionBatches: expected at least one instruction to learn from, got none")
        examples = [
            build_example(task.instruction, task.output, tokenizer.encode, task.input, tokenizer.eos_id, mask_prompt)
            for task in tasks
        ]
        fitting = [example for example in examples if len(example[0]) <= context]
        self.skipped = len(examples) - len(fitting)
        if not fitting:
            shortest = min(len(input_ids) for input_ids, _ in examples)
            raise ValueError(
                f"all {len(examples)} examples are longer than the model's context of {context} tokens, the shortest "
                f"has {shortest}; give shorter examples or a model with a longer context"
            )
        rows, labels = [row for row, _ in fitting], [labels for _, labels in fitting]
        super().__init__(rows, labels, batch_size, tokenizer.eos_id, seed)


def response_loss(model: GPT, inputs: mg.Tensor, targets: mg.Tensor) -> mg.Tensor:
    """Chapter 7's `next_token_loss`, but the output layer scores only the graded positions, about a quarter of them.

    It is `next_token_loss` itself if nothing is graded, and on a GPU, where the processor would have to wait to learn which
    positions are graded.
    """
    if targets.device != "cpu" or not (targets.numpy() != IGNORE_INDEX).any():
        return next_token_loss(model, inputs, targets)
    logits, graded_targets, _ = graded_logits(model, inputs, targets.numpy())
    return F.cross_entropy(logits, graded_targets)


def graded_logits(model: GPT, inputs: mg.Tensor, targets: np.ndarray) -> tuple[mg.Tensor, mg.Tensor, mg.Tensor]:
    """Score only the N positions with a target.

    Args:
        inputs: (B, T) ids.
        targets: (B, T) ids, or IGNORE_INDEX where nothing is graded.

    Returns:
        Logits (N, V), targets (N,), and the N positions among all B·T.
    """
    flat = targets.ravel()  # (B·T,)
    positions = np.flatnonzero(flat != IGNORE_INDEX)  # (N,)
    at = mg.as_tensor(positions, device=inputs.device)
    return model(inputs, at=at), mg.as_tensor(flat[positions], device=inputs.device), at


def validation_batches(tasks: Tasks, tokenizer: Tokenizer, context: int, config: TrainConfig) -> InstructionBatches | None:
    """Batches of the held-out tasks; None if none of them fits into the context."""
    try:
        return InstructionBatches(tasks, tokenizer, context, config.batch_size, config.seed) if tasks else None
    except ValueError as error:
        print(f"no validation loss: {error}")
        return None


def fine_tune(
    model: GPT,
    tokenizer: Tokenizer,
    tasks: Tasks,
    config: TrainConfig,
    run: Run,
    mask_prompt: bool = True,
    held_out: Tasks = (),
) -> tuple[History, int]:
    """Train model in place with chapter 7's loop and save it; returns the History and the number of skipped examples.

    The validation loss is measured on the held-out tasks, if there are any.
    """
    context = model.config.context
    batches = InstructionBatches(tasks, tokenizer, context, config.batch_size, config.seed, mask_prompt)
    validation = validation_batches(held_out, tokenizer, context, config)
    history = train(model, batches, config, run, loss_fn=response_loss, validation=validation)
    save_model(run, model, tokenizer, "instruction")
    return history, batches.skipped


# ── asking ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def respond(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = 48,
    batch_size: int = 64,
    temperature: float = 0.0,
    generator: mg.Generator | None = None,
) -> list[str]:
    """The model's continuation of each prompt, up to its end-of-text token; prompts of similar length share a batch.

    Ranks share the prompts out.
    """
    stop = (tokenizer.eos_id,)

    def write(prompts: Sequence[str], generator: mg.Generator | None = None) -> list[str]:
        rows = [tokenizer.encode(prompt) for prompt in prompts]
        answers = [""] * len(rows)
        for places in shortest_first(rows, batch_size):  # (B,)
            batch = [rows[i] for i in places]
            outputs = generate(model, batch, max_new_tokens, temperature=temperature, stop_ids=stop, generator=generator)
            for i, output in zip(places, outputs, strict=True):
                answers[i] = tokenizer.decode(output).strip()
        return answers

    return [answer for answers in distributed.current().map_shards(write, prompts, generator) for answer in answers]


def ask(model: GPT, tokenizer: Tokenizer, tasks: Tasks, **sampling: Any) -> list[str]:
    """A fine-tuned model's responses to instructions in the template; sampling: more arguments of `respond`."""
    return respond(model, tokenizer, [task_prompt(task) for task in tasks], **sampling)


def ask_base(model: GPT, tokenizer: Tokenizer, tasks: Tasks, **sampling: Any) -> list[str]:
    """A base model's continuations of bare instructions, because it knows no template."""
    return respond(model, tokenizer, [bare_prompt(task) for task in tasks], **sampling)


def task_prompt(task: Instruction) -> str:
    """The instruction and its input in the template."""
    return format_prompt(task.instruction, task.input)


def bare_prompt(task: Instruction) -> str:
    """The instruction and its input, each on a line, without a template."""
    return f"{task.instruction}\n{task.input}\n" if task.input else f"{task.instruction}\n"


def acceptance(world: World, tasks: Tasks, responses: Sequence[str]) -> dict[str, Any]:
    """The share of responses that the world accepts: {"all": …, "families": {family: …}}."""
    verdicts: dict[str, list[bool]] = {}
    for task, response in zip(tasks, responses, strict=True):
        verdicts.setdefault(task.family, []).append(world.accepts(task, response))
    everything = [verdict for family in verdicts.values() for verdict in family]
    return {
        "all": float(np.mean(everything)),
        "families": {family: float(np.mean(verdicts[family])) for family in sorted(verdicts)},
    }


def questions_answered_by_questions(tasks: Tasks, responses: Sequence[str]) -> float:
    """The share of questions that are answered with another question, as a base model likes to do (section 10.1)."""
    pairs = zip(tasks, responses, strict=True)
    evaded = [asks_a_question(response) for task, response in pairs if asks_a_question(task.instruction)]
    return float(np.mean(evaded)) if evaded else 0.0


def boilerplate_rate(
    model: GPT, tokenizer: Tokenizer, samples: int = 64, seed: int = 0, max_new_tokens: int = 64
) -> tuple[float, list[str]]:
    """Exercise 2: how often the model recites the template after the bare header "### Instruction:".

    Returns the share of samples, drawn at temperature 1, in which "### Response:" follows, and the samples.
    """
    header = ["### Instruction:\n"] * samples
    texts = respond(model, tokenizer, header, max_new_tokens, samples, temperature=1.0, generator=mg.Generator(seed))
    return sum(map(recites_the_template, texts)) / samples, texts


def recites_the_template(text: str) -> bool:
    return "### Response:" in text


def boilerplate_report(share: float, texts: Sequence[str]) -> str:
    """The result of `boilerplate_rate` in words, with the first sample that recites the template, if one does."""
    example = next(filter(recites_the_template, texts), texts[0])
    named = "one that does" if share else "one of them"
    quoted = "\n".join(f"  | {line}" for line in example.splitlines())
    return f"after a bare '### Instruction:', {share:.0%} of the samples recite the template; {named}:\n{quoted}"


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────

# A fifteenth of pretraining's rate; in 280 steps a higher one makes the model forget. The chapter's 1e-5 is for large models.
TRAINING: dict[str, Any] = dict(lr=4e-4, muon_lr=2e-3, min_lr=4e-5, steps=280, batch_size=32, warmup_steps=20)
TRAINING |= dict(weight_decay=0.0, beta2=0.99, eval_batches=9)
QUICK_TRAINING = dict(lr=1e-3, muon_lr=5e-3, min_lr=1e-4, steps=60, batch_size=16, warmup_steps=10, eval_batches=4)


@dataclass
class Settings(InShards):
    """Fine-tune a base model on instructions, show what is graded, and ask it unseen instructions."""

    base: Path = Path("runs/main/pretrain")  # run folder of the base model, from the main job or ch07_train
    data: Path | None = None  # JSON file in Alpaca's format; the little world's tasks if None
    run: Path = Path("runs/sft")  # run folder for all output
    mask_prompt: bool = True  # grade the answer alone; without the mask, the question too (exercise 2)
    examples: int = 8000  # world tasks to train on
    held_out: int = 300  # world tasks to ask afterwards; with --data, a tenth of the file
    training: TrainConfig = field(default_factory=lambda: TrainConfig(**TRAINING))
    seed: int = 0  # random seed of world, split and training
    quick: bool = False  # fewer examples and steps


QUICK = {
    "examples": 1500,
    "held_out": 64,
    # So few steps need a higher rate.
    "training": TrainConfig(**TRAINING | QUICK_TRAINING),
}


def main(settings: Settings) -> None:
    at_least_one(settings, "examples", "held_out")
    model, tokenizer = load_model(settings.base)
    world = World(settings.seed)
    if settings.data:
        tasks = read_instructions(settings.data)
        train_set, held_out = random_split(tasks, len(tasks) // 10, settings.seed)
    else:
        train_set = world.instructions("train", settings.examples, seed=settings.seed)
        held_out = world.instructions("test", settings.held_out, seed=settings.seed + 1)
    run = Run(settings.run)
    show_example(train_set[0], tokenizer, run)

    config = replace(settings.training, seed=settings.seed)
    _, skipped = fine_tune(model, tokenizer, train_set, config, run, settings.mask_prompt, held_out)
    if skipped:
        print(f"skipped {skipped} of {len(train_set)} examples, longer than the context of {model.config.context} tokens")
    report(world, model, tokenizer, held_out, run, judged=settings.data is None)


def show_example(task: Instruction, tokenizer: Tokenizer, run: Run) -> None:
    """Show one training example: as coloured text, as ids beside labels (exercise 1), and as a picture."""
    input_ids, labels = build_example(task.instruction, task.output, tokenizer.encode, task.input, tokenizer.eos_id)
    print_styled(mask_in_colour(input_ids, labels, tokenizer, colour=colours()) + "\n")
    print(table(input_ids, labels, tokenizer) + "\n")
    print(f"picture: {draw_mask(run / 'figures' / 'mask.svg', input_ids, labels, tokenizer)}")


def report(world: World, model: GPT, tokenizer: Tokenizer, held_out: Tasks, run: Run, judged: bool) -> None:
    """Answer the held-out instructions: print some, write all to samples.txt, and judge the world's own tasks."""
    responses = ask(model, tokenizer, held_out)
    pages = [
        "\n".join(filter(None, [task.instruction, task.input, f"  -> {response}", f"  (a good answer: {task.output})"]))
        for task, response in zip(held_out, responses, strict=True)
    ]
    (run / "samples.txt").write_text("\n\n".join(pages) + "\n", encoding="utf-8")
    print("\n" + "\n\n".join(pages[:5]) + "\n")
    if judged:
        accepted = acceptance(world, held_out, responses)
        for family, share in accepted["families"].items():
            print(f"{family:<12}{share:>8.1%}")
        print(f"{'all':<12}{accepted['all']:>8.1%}  of {len(held_out)} held-out instructions accepted")
    share, texts = boilerplate_rate(model, tokenizer)
    print(boilerplate_report(share, texts))


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

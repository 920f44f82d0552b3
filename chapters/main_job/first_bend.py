"""The main job's first stages: data, tokenizer, base model, class head, instruction tuning.

A stage takes a Job, writes into its own folder and returns its measurements, ready for JSON. It reads its inputs from the
folders of earlier stages, so a stopped job continues where it stopped. Results contain no times: the same seed and the same
number of threads give the same bytes.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import minigrad as mg
from chapters.ch01_tokenizer import END_OF_TEXT, Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, load_tokens, train_validation_split, write_tokens
from chapters.ch04_attention import attention_maps
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10 import classify, figures, sft
from chapters.support.generations import record_generations
from chapters.support.readers import read_text
from chapters.support.run_folder import History, Run
from chapters.world import LABELS, Instruction, World


@dataclass(frozen=True)
class Plan:
    """The sizes of the stages below."""

    corpus_bytes: int
    vocab_size: int
    model: dict[str, Any]  # GPTConfig settings
    pretrain: TrainConfig
    snippets: int  # classifier examples to train on
    snippets_test: int  # classifier examples to test on
    classify: TrainConfig
    instructions: int  # instruction-response pairs to train on
    sft: TrainConfig
    test: int  # held-out instructions for each model
    samples: int = 64  # texts sampled after a bare header in exercise 2


# Why these numbers, all chosen with seed 0: the loss stays on a plateau until attention learns to copy a name from earlier in
# the text, and a model on the plateau fails in the later stages. Many small steps, a high learning rate and beta2 = 0.99 leave
# it soonest. With Muon for the matrices, three fifths of AdamW's steps reach about the same loss.
# Depth matters more than width. After 2,600 steps the validation loss of four layers of width 64 is 0.57. It is 0.56 with width
# 96 at one and a half times the cost, and 0.64 with two layers of width 128. In a short run two wide layers do better: 0.78
# after 900 steps with width 96, where four layers of width 64 are at 0.91 after 1,000.
# Instruction tuning uses a low rate, as the chapter advises: at 1e-3 the full form's model forgets names that its few examples
# do not mention, and answers about other people; a quarter of its answers are wrong then. The quick form has too few
# steps for a low rate.
FULL = Plan(
    corpus_bytes=16_000_000,
    vocab_size=1024,
    model=dict(n_layer=4, n_head=4, d_model=64, context=128, init_std=0.05),
    pretrain=TrainConfig(
        steps=2600, batch_size=8, lr=6e-3, muon_lr=0.03, min_lr=0.0, beta2=0.99, eval_every=650, eval_batches=20
    ),
    snippets=200,  # few, so that the pretrained body makes a difference
    snippets_test=600,
    classify=TrainConfig(steps=100, batch_size=32, lr=3e-4, min_lr=3e-5, warmup_steps=10),
    instructions=sft.Settings.examples,
    sft=replace(sft.Settings().training, eval_every=140),
    test=320,
)
QUICK = replace(
    FULL,
    corpus_bytes=5_000_000,
    model=FULL.model | dict(n_layer=2, d_model=96),
    pretrain=replace(FULL.pretrain, steps=900, eval_every=450),
    snippets_test=300,
    instructions=4000,
    sft=replace(FULL.sft, steps=160, lr=1e-3, muon_lr=5e-3, min_lr=1e-4, eval_every=80, eval_batches=4),
    test=160,
    samples=32,
)
PLANS = {"full": FULL, "quick": QUICK}


@dataclass
class Job:
    """One run of the main job: its folder, its seed and its sizes."""

    out: Path
    seed: int
    plan: Plan
    second_plan: Any  # a second_bend.SecondPlan
    quick: bool = False
    results: dict[str, Any] = field(default_factory=dict)  # stage name -> its result

    @property
    def world(self) -> World:
        return World(self.seed)

    def run(self, name: str) -> Run:
        """The run folder of a stage, or of a model that a stage trains."""
        return Run(self.out / name)

    def config(self, config: TrainConfig) -> TrainConfig:
        """The TrainConfig with this job's seed, set to resume a stopped stage from its checkpoint."""
        return replace(config, seed=self.seed, resume=True)


# ── chapters 1 and 2: text and tokens ────────────────────────────────────────────────────────────────────────────────


def make_world(job: Job) -> dict[str, Any]:
    """Generate the little world's documents, with "<|endoftext|>" between them."""
    documents = job.world.documents(job.plan.corpus_bytes, seed=job.seed)
    text = END_OF_TEXT.join(documents)
    (job.run("world") / "documents.txt").write_text(text, encoding="utf-8")
    return {"documents": len(documents), "bytes": len(text.encode()), "pages": [page[:320] for page in documents[:3]]}


def make_tokens(job: Job) -> dict[str, Any]:
    """Learn a byte-level BPE from the documents and the instruction template; write the documents as token ids."""
    text = read_text(job.out / "world" / "documents.txt")
    run = job.run("tokenizer")
    tokenizer = sft.learn_tokenizer(text.split(END_OF_TEXT), job.plan.vocab_size)
    tokenizer.save(run / "tokenizer.tiktoken")
    tokens = write_tokens(run / "tokens.bin", tokenizer.encode(text, allow_special=True))
    return {
        "vocabulary": tokenizer.vocab_size,
        "tokens": len(tokens),
        "bytes a token": round(len(text.encode()) / len(tokens), 2),
        "tokens of the template": len(tokenizer.encode(sft.TEMPLATE)),
    }


# ── chapters 6 to 8: the base model ──────────────────────────────────────────────────────────────────────────────────


# A fact about a person, a list to be copied backwards, a difference: the beginnings that a model in training continues.
BEGINNINGS = ("Here is Lara.", "The list is lemon, dog, bucket. Backwards the list is", "Look at 9 - 4. What is left is")


def pretrain(job: Job) -> dict[str, Any]:
    """Train chapter 6's GPT with chapter 7's loop to continue the world's documents."""
    tokenizer = Tokenizer.load(job.out / "tokenizer" / "tokenizer.tiktoken")
    train_tokens, validation_tokens = train_validation_split(load_tokens(job.out / "tokenizer" / "tokens.bin"), 0.02)
    config = job.config(job.plan.pretrain)
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **job.plan.model), generator=mg.Generator(job.seed))
    context, run = gpt.config.context, job.run("pretrain")
    batches = NextTokenBatches(train_tokens, context, config.batch_size, job.seed)
    validation = EveryTokenOnce(validation_tokens, context, config.batch_size)

    def write(step: int) -> None:
        texts = sft.respond(gpt, tokenizer, BEGINNINGS, max_new_tokens=24, generator=mg.Generator(job.seed))
        record_generations(run, step, dict(zip(BEGINNINGS, texts, strict=True)))

    history = train(gpt, batches, config, run, validation=validation, observe=write)
    save_model(run, gpt, tokenizer)
    return {
        "parameters": sum(parameter.array.size for parameter in gpt.parameters()),
        "steps": config.steps,
        "training loss": history.losses[-1],
        "validation loss": history.validation_losses[-1],
    }


def sample(job: Job) -> dict[str, Any]:
    """Sample four documents from the base model, and draw its attention maps."""
    model, tokenizer = load_model(job.out / "pretrain")
    run, end = job.run("sample"), tokenizer.eos_id
    pages = generate(model, [[end]] * 4, 96, temperature=0.8, stop_ids=(end,), generator=mg.Generator(job.seed))
    unasked = [tokenizer.decode(page).strip() for page in pages]
    (run / "samples.txt").write_text("\n\n".join(unasked) + "\n", encoding="utf-8")

    document = read_text(job.out / "world" / "documents.txt").split(END_OF_TEXT)[0]
    ids, layer = tokenizer.encode(document)[:26], model.config.n_layer // 2
    tokens = [figures.printable(piece) for piece in tokenizer.pieces(ids)]
    figures.draw_attention(run / "figures" / "attention.svg", attention_maps(model, ids, layer), tokens)
    return {"unasked": unasked, "layer": layer + 1}


# ── chapter 10: a class head, and instruction tuning ─────────────────────────────────────────────────────────────────


def train_classifiers(job: Job) -> dict[str, Any]:
    """Train the same class head on the pretrained body and on an untrained one."""
    world, plan = job.world, job.plan
    train_set = classify.snippets(world, "train", plan.snippets, job.seed)
    test_set = classify.snippets(world, "test", plan.snippets_test, job.seed + 1)
    body, config = job.out / "pretrain", job.config(plan.classify)
    folders = job.out / "classify_untrained", job.out / "classify_pretrained"
    results: dict[str, Any] = classify.compare_bodies(body, train_set, test_set, LABELS, config, folders)
    folder = job.run("classify") / "figures"
    figures.draw_confusion(folder / "confusion.svg", results["pretrained body"])
    accuracy = {"guessing": 1 / 3, **{name: result["accuracy"] for name, result in results.items()}}
    figures.draw_gap(folder / "gap.svg", accuracy, "where does the snippet end?")
    return {**results, "examples": [list(example) for example in test_set[:3]]}


def fine_tune(job: Job) -> dict[str, Any]:
    """Tune on instructions with the prompt masked, and once more without the mask for exercise 2."""
    world, plan = job.world, job.plan
    instructions = world.instructions("train", plan.instructions, seed=job.seed)
    held_out = world.instructions("test", plan.test, seed=job.seed + 1)
    results: dict[str, Any] = {}
    for name, mask_prompt in {"sft": True, "sft_unmasked": False}.items():
        model, tokenizer = load_model(job.out / "pretrain")
        run = job.run(name)
        history, skipped = sft.fine_tune(model, tokenizer, instructions, job.config(plan.sft), run, mask_prompt, held_out)
        results[name] = {"validation loss": history.validation_losses[-1], "skipped": skipped}
    run = job.run("sft")
    example = min((i for i in instructions[:200] if not i.input), key=lambda i: abs(len(i.output) - 60))
    input_ids, labels = sft.build_example(example.instruction, example.output, tokenizer.encode, eos_id=tokenizer.eos_id)
    figures.draw_mask(run / "figures" / "mask.svg", input_ids, labels, tokenizer)
    (run / "mask.txt").write_text(figures.table(input_ids, labels, tokenizer) + "\n", encoding="utf-8")
    curves = {"masked": History.read(run), "not masked": History.read(job.run("sft_unmasked"))}
    figures.draw_curves(run / "figures" / "curves.svg", curves, "instruction tuning")
    return {"instructions": len(instructions), **results}


def evaluate(job: Job) -> dict[str, Any]:
    """Ask the base model and both tuned models held-out instructions, and give them exercise 2's bare header."""
    world, plan = job.world, job.plan
    tests = {
        "test": world.instructions("test", plan.test, seed=job.seed + 1),
        "test_families": world.instructions("test_families", plan.test // 3, seed=job.seed + 2),
    }
    models = {"base": "pretrain", "sft": "sft", "sft_unmasked": "sft_unmasked"}
    results: dict[str, Any] = {}
    responses = {}
    for name, folder in models.items():
        model, tokenizer = load_model(job.out / folder)
        ask = sft.ask_base if name == "base" else sft.ask
        results[name] = {}
        for split, tasks in tests.items():
            texts = responses[name, split] = ask(model, tokenizer, tasks, batch_size=256)
            # The base model continues with other questions, so only its first line counts as its answer.
            judged = [first_line(text) for text in texts] if name == "base" else texts
            results[name][split] = sft.acceptance(world, tasks, judged)
            if split == "test":
                results[name]["questions"] = sft.questions_answered_by_questions(tasks, texts)
        results[name]["boilerplate"], continuations = sft.boilerplate_rate(model, tokenizer, plan.samples, job.seed)
        results[name]["after a bare header"] = continuations[:2]
    figures.draw_families(job.run("evaluate") / "figures" / "families.svg", by_family(results))
    return {"models": results, "shown": side_by_side(world, tests, responses)}


def first_line(text: str) -> str:
    """The first line of a text; "" if the text is empty."""
    return text.strip().split("\n")[0]


def by_family(results: dict[str, Any]) -> dict[str, dict[str, float]]:
    """{family: {model: share accepted}} for the families in the training set."""
    families = results["sft"]["test"]["families"]
    return {
        family: {"base": results["base"]["test"]["families"][family], "after instruction tuning": families[family]}
        for family in sorted(families, key=families.get, reverse=True)
    }


def side_by_side(
    world: World, tests: dict[str, list[Instruction]], responses: dict[tuple[str, str], list[str]]
) -> list[dict[str, Any]]:
    """For the report: the first held-out instruction of each family, with every model's response and the rule's verdict."""
    rows, families = [], set()
    for split, tasks in tests.items():
        for i, task in enumerate(tasks):
            if task.family in families:
                continue
            families.add(task.family)
            texts = {name: responses[name, split][i] for name in ("base", "sft", "sft_unmasked")}
            answers = {**texts, "base": first_line(texts["base"])}
            accepted = {name: world.accepts(task, answer) for name, answer in answers.items()}
            row = {"instruction": task.instruction, "input": task.input, "family": task.family, "split": split}
            rows.append({**row, "reference": task.output, "said": texts, "accepted": accepted})
    return rows

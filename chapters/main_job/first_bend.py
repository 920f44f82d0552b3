"""The stages of the main job, `python -m chapters`: each takes a Job, leaves a folder, and returns what it measured.

A stage finds what it needs in the folders of those before it, never in memory, so that a job that was stopped goes on
where it was. What a stage returns is JSON, holds no clock, and is the same from the same seed on as many threads.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import minigrad as mg
from chapters.ch01_tokenizer import END_OF_TEXT, Tokenizer
from chapters.ch02_dataset import EveryTokenOnce, NextTokenBatches, load_tokens, train_validation_split, write_tokens
from chapters.ch04_attention import attention_maps
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10 import classify, sft
from chapters.ch10.figures import (
    draw_attention,
    draw_confusion,
    draw_curves,
    draw_families,
    draw_gap,
    draw_mask,
    printable,
    table,
)
from chapters.support.readers import read_text
from chapters.support.run_folder import History, Run
from chapters.world import LABELS, World


@dataclass(frozen=True)
class Plan:
    """How much of everything: FULL takes about seven minutes on two cores, QUICK less than half of that."""

    corpus_bytes: int
    vocab_size: int
    model: dict
    pretrain: TrainConfig
    snippets: int
    snippets_test: int
    classify: TrainConfig
    instructions: int
    sft: TrainConfig
    test: int  # held-out instructions asked of each model
    samples: int = 64  # for exercise 2


# Why these numbers: the loss stays on a plateau until attention has learned to copy a name from earlier in the text,
# and nothing that comes later works before that. Many small steps, a high rate and AdamW's longer memory (beta2 0.99)
# leave it soonest. Instruction tuning is gentle for the reason that the chapter gives: with a rate of 1e-3 the model
# forgets the names that its few examples never mention, and answers about somebody else.
FULL = Plan(
    corpus_bytes=16_000_000,
    vocab_size=1024,
    model=dict(n_layer=4, n_head=4, d_model=128, context=128, init_std=0.05),
    pretrain=TrainConfig(steps=4400, batch_size=8, lr=4e-3, min_lr=4e-4, beta2=0.99, eval_every=1100, eval_batches=20),
    snippets=200,  # few, so that it shows what the body brings
    snippets_test=600,
    classify=TrainConfig(steps=100, batch_size=32, lr=3e-4, min_lr=3e-5, warmup_steps=10),
    instructions=sft.Settings.examples,
    sft=replace(sft.Settings().training, eval_every=200),
    test=320,
)
QUICK = replace(
    FULL,
    corpus_bytes=5_000_000,
    pretrain=replace(FULL.pretrain, steps=1300, eval_every=650),
    snippets_test=300,
    instructions=4000,
    sft=replace(FULL.sft, steps=200, eval_every=100, eval_batches=4),
    test=160,
    samples=32,
)
PLANS = {"full": FULL, "quick": QUICK}


@dataclass
class Job:
    """One run of the main job: where it writes, from which seed, and how much."""

    out: Path
    seed: int
    plan: Plan
    second_plan: object  # of the second bend, see second_bend.SecondPlan
    quick: bool = False
    results: dict = field(default_factory=dict)  # stage -> what it returned

    @property
    def world(self):
        return World(self.seed)

    def run(self, name):
        """The run folder of a stage, or of one of the models that it trains."""
        return Run(self.out / name)

    def config(self, config):
        """A plan's TrainConfig with this job's seed; a stage that was stopped goes on from its checkpoint."""
        return replace(config, seed=self.seed, resume=True)


# ── what the model reads ─────────────────────────────────────────────────────────────────────────────────────────────


def make_world(job):
    """The little world's documents, with "<|endoftext|>" between them."""
    documents = job.world.documents(job.plan.corpus_bytes, seed=job.seed)
    text = END_OF_TEXT.join(documents)
    (job.run("world") / "documents.txt").write_text(text, encoding="utf-8")
    return {"documents": len(documents), "bytes": len(text.encode()), "pages": [page[:320] for page in documents[:3]]}


def make_tokens(job):
    """A byte-level BPE learned from the documents and the template's words, and the documents as token ids on disk."""
    text = read_text(job.out / "world" / "documents.txt")
    run = job.run("tokenizer")
    # Every instruction will come in the template: were its words unknown here, they would fill most of each example.
    frame = (sft.TEMPLATE + sft.TEMPLATE_WITH_INPUT) * (text.count(END_OF_TEXT) // 4)
    tokenizer = Tokenizer.train(text.replace(END_OF_TEXT, "\n") + frame, job.plan.vocab_size)
    tokenizer.save(run / "tokenizer.tiktoken")
    tokens = write_tokens(run / "tokens.bin", tokenizer.encode(text, allow_special=True))
    return {
        "vocabulary": tokenizer.vocab_size,
        "tokens": len(tokens),
        "bytes a token": round(len(text.encode()) / len(tokens), 2),
        "tokens of the template": len(tokenizer.encode(sft.TEMPLATE)),
    }


# ── chapters 6 to 8: the base model ──────────────────────────────────────────────────────────────────────────────────


def pretrain(job):
    """The GPT of chapter 6 through the loop of chapter 7: it learns to continue the world's pages."""
    tokenizer = Tokenizer.load(job.out / "tokenizer" / "tokenizer.tiktoken")
    learned, kept_back = train_validation_split(load_tokens(job.out / "tokenizer" / "tokens.bin"), 0.02)
    config = job.config(job.plan.pretrain)
    gpt = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **job.plan.model), generator=mg.Generator(job.seed))
    context, run = gpt.config.context, job.run("pretrain")
    batches = NextTokenBatches(learned, context, config.batch_size, job.seed)
    history = train(gpt, batches, config, run, validation=EveryTokenOnce(kept_back, context, config.batch_size))
    save_model(run, gpt, tokenizer)
    return {
        "parameters": sum(parameter.array.size for parameter in gpt.parameters()),
        "steps": config.steps,
        "training loss": history.losses[-1],
        "validation loss": history.validation_losses[-1],
    }


def sample(job):
    """What the base model writes when nothing is asked, and where its heads look."""
    model, tokenizer = load_model(job.out / "pretrain")
    run, end = job.run("sample"), tokenizer.eos_id
    pages = generate(model, [[end]] * 4, 96, temperature=0.8, stop_ids=(end,), generator=mg.Generator(job.seed))
    unasked = [tokenizer.decode(page).strip() for page in pages]
    (run / "samples.txt").write_text("\n\n".join(unasked) + "\n", encoding="utf-8")

    document = read_text(job.out / "world" / "documents.txt").split(END_OF_TEXT)[0]
    ids, layer = tokenizer.encode(document)[:26], model.config.n_layer // 2
    tokens = [printable(piece) for piece in tokenizer.pieces(ids)]
    draw_attention(run / "figures" / "attention.png", attention_maps(model, ids, layer), tokens)
    return {"unasked": unasked, "layer": layer + 1}


# ── chapter 10: the two first bends ──────────────────────────────────────────────────────────────────────────────────


def train_classifiers(job):
    """The same head, trained in the same way, on the pretrained body and on one that never read a page."""
    world, plan = job.world, job.plan
    train_set = classify.snippets(world, "train", plan.snippets, job.seed)
    test_set = classify.snippets(world, "test", plan.snippets_test, job.seed + 1)
    bodies = {"untrained body": "classify_untrained", "pretrained body": "classify_pretrained"}
    results = {}
    for name, folder in bodies.items():
        gpt, tokenizer = load_model(job.out / "pretrain")
        if name == "untrained body":
            gpt = GPT(gpt.config, generator=mg.Generator(job.seed))
        config, run = job.config(plan.classify), job.run(folder)
        results[name] = classify.train_classifier(gpt, train_set, test_set, LABELS, tokenizer, config, run)
    figures = job.run("classify") / "figures"
    draw_confusion(figures / "confusion.png", results["pretrained body"])
    accuracy = {"guessing": 1 / 3, **{name: result["accuracy"] for name, result in results.items()}}
    draw_gap(figures / "gap.png", accuracy, "where does the snippet end?")
    return {**results, "examples": [list(example) for example in test_set[:3]]}


def fine_tune(job):
    """Instruction tuning with the mask, and for exercise 2 once more without it."""
    world, plan = job.world, job.plan
    instructions = world.instructions("train", plan.instructions, seed=job.seed)
    held_out = world.instructions("test", plan.test, seed=job.seed + 1)
    results = {}
    for name, mask_prompt in {"sft": True, "sft_unmasked": False}.items():
        model, tokenizer = load_model(job.out / "pretrain")
        run = job.run(name)
        history, skipped = sft.fine_tune(model, tokenizer, instructions, job.config(plan.sft), run, mask_prompt, held_out)
        results[name] = {"validation loss": history.validation_losses[-1], "skipped": skipped}
    one = min((i for i in instructions[:200] if not i.input), key=lambda i: abs(len(i.output) - 60))
    input_ids, labels = sft.build_example(one.instruction, one.output, tokenizer.encode, eos_id=tokenizer.eos_id)
    draw_mask(job.run("sft") / "figures" / "mask.png", input_ids, labels, tokenizer)
    (job.run("sft") / "mask.txt").write_text(table(input_ids, labels, tokenizer) + "\n", encoding="utf-8")
    curves = {name: History.read(job.run(folder)) for name, folder in
              {"masked": "sft", "not masked": "sft_unmasked"}.items()}  # fmt: skip
    draw_curves(job.run("sft") / "figures" / "curves.png", curves, "instruction tuning")
    return {"instructions": len(instructions), **results}


def evaluate(job):
    """Held-out instructions asked of the base model and of the two fine-tuned ones, and exercise 2's bare header."""
    world, plan = job.world, job.plan
    tests = {
        "test": world.instructions("test", plan.test, seed=job.seed + 1),
        "test_families": world.instructions("test_families", plan.test // 3, seed=job.seed + 2),
    }
    models = {"base": "pretrain", "sft": "sft", "sft_unmasked": "sft_unmasked"}
    results, responses = {}, {}
    for name, folder in models.items():
        model, tokenizer = load_model(job.out / folder)
        ask = sft.ask_base if name == "base" else sft.ask
        results[name] = {}
        for split, tasks in tests.items():
            said = responses[name, split] = ask(model, tokenizer, tasks)
            # The base model goes on to other questions after its first line, which is the one to be judged.
            judged = [first_line(text) for text in said] if name == "base" else said
            results[name][split] = sft.acceptance(world, tasks, judged)
            if split == "test":
                results[name]["questions"] = sft.questions_answered_by_questions(tasks, said)
        results[name]["boilerplate"], headers = sft.boilerplate_rate(model, tokenizer, plan.samples, job.seed)
        results[name]["after a bare header"] = headers[:2]
    draw_families(job.run("evaluate") / "figures" / "families.png", by_family(results))
    return {"models": results, "shown": shown_side_by_side(world, tests, responses)}


def first_line(text):
    """The first line of a text, "" of an empty one."""
    return text.strip().split("\n")[0]


def by_family(results):
    """{family: {model: share}} of the families that were trained on, for the figure."""
    families = results["sft"]["test"]["families"]
    return {
        family: {"base": results["base"]["test"]["families"][family], "after instruction tuning": families[family]}
        for family in sorted(families, key=families.get, reverse=True)
    }


def shown_side_by_side(world, tests, responses):
    """One held-out instruction a family with every model's response and whether it was accepted, for the report."""
    shown, seen = [], set()
    for split, tasks in tests.items():
        for i, task in enumerate(tasks):
            if task.family in seen:
                continue
            seen.add(task.family)
            said = {name: responses[name, split][i] for name in ("base", "sft", "sft_unmasked")}
            verdicts = {name: world.accepts(task, first_line(text) if name == "base" else text) for name, text in said.items()}
            shown.append({"instruction": task.instruction, "input": task.input, "family": task.family, "split": split,
                          "reference": task.output, "said": said, "accepted": verdicts})  # fmt: skip
    return shown

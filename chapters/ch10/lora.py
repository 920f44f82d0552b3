"""Chapter 10, on a large body: fine-tuning by low rank, so that 124 million parameters bend on a laptop.

    python -m chapters.ch10.lora --model smollm2 --data messages.tsv        # a class head on a body that can read
    python -m chapters.ch10.lora --model gpt2 --task sft --data instruction-data.json
    python -m chapters.ch10.lora --model gpt2 --task reward --data pairs.json --checkpoint-activations

To bend a model, few directions are enough. Every chosen matrix W stays as it is and gets a product of two thin ones
beside it, W + (alpha / rank) B A, of which alone A and B are trained: no gradients, no moments of AdamW for W. B begins
as zeros, so that training begins with the model unchanged. At the end the product is added into W, and what is saved is
an ordinary GPT, reward model or classifier.

Three things decide whether a body fits into the memory at hand: how many numbers have gradients and moments (LoRA, or
with `--preset full` all of them), how many rows are read at a time (training.batch_size; training.grad_accumulation of
those share a step), and whether what the blocks computed is kept or computed twice (--checkpoint-activations).
Sources: Hu et al. 2021, "LoRA" (arXiv:2106.09685), section 4.1; the learning rate of full tuning is section 10.3's.
"""

import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch06_gpt import save_model
from chapters.ch07_train import TrainConfig, train
from chapters.ch09.decoder import Decoder, write_together
from chapters.ch10.classify import stratified_split, train_classifier
from chapters.ch10.reward import ComparisonBatches, ScalarModel, from_pairs, measure, normalise, reward_loss, save_scalar
from chapters.ch10.sft import InstructionBatches, format_prompt
from chapters.support.command import OnDevice, command
from chapters.support.readers import read_instructions, read_labelled, read_pairs
from chapters.support.run_folder import Run

CALLED = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class LoRALinear(nn.Module):
    """An nn.Linear, frozen, with a trained product of rank `rank` beside it.  x: (..., I) -> (..., O)."""

    def __init__(self, linear, rank, alpha, generator=None):
        super().__init__()
        if not 1 <= rank <= min(linear.weight.shape):
            raise ValueError(f"rank must be between 1 and {min(linear.weight.shape)} for {linear}, got {rank}")
        self.linear, self.scale = linear.requires_grad_(False), alpha / rank
        self.down = nn.Linear(linear.in_features, rank, bias=False)  # A: (rank, I)
        self.up = nn.Linear(rank, linear.out_features, bias=False)  # B: (O, rank)
        nn.init.normal_(self.down.weight, 0.0, 1 / math.sqrt(linear.in_features), generator=generator)
        nn.init.zeros_(self.up.weight)

    def forward(self, x, activation=None):
        y = self.linear(x) + self.up(self.down(x) * self.scale)  # (..., O)  scaled where it is thin
        if activation not in (None, "gelu_tanh"):
            raise ValueError(f"LoRALinear: activation must be None or 'gelu_tanh', got {activation!r}")
        return y if activation is None else F.gelu(y, approximate="tanh")

    def merged(self):
        """The nn.Linear that does the same alone: its weight becomes W + (alpha / rank) B A."""
        weight = self.linear.weight
        weight.array[...] += self.scale * (self.up.weight.array @ self.down.weight.array)
        weight.changed()
        return self.linear.requires_grad_(True)


def add_lora(gpt, rank, alpha, layers=("attn.c_attn", "attn.c_proj"), generator=None):
    """Freeze a GPT and put a LoRALinear in place of these layers of every block; returns the number of trained numbers."""
    gpt.requires_grad_(False).zero_grad()  # a gradient left over would still be stepped along
    for block in gpt.h:
        for name in layers:
            if name not in CALLED:
                raise ValueError(f"LoRA can stand beside {', '.join(CALLED)}, not beside {name!r}")
            part, name = name.split(".")
            holder = getattr(block, part)
            setattr(holder, name, LoRALinear(getattr(holder, name), rank, alpha, generator))
    return sum(math.prod(p.shape) for p in gpt.parameters() if p.requires_grad)


def merge_lora(gpt):
    """Add every product into its matrix: the GPT is an ordinary one again, and all of it can be trained."""
    for module in list(gpt.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, LoRALinear):
                setattr(module, name, child.merged())
    return gpt.requires_grad_(True)


# ── the three bends ──────────────────────────────────────────────────────────────────────────────────────────────────


def classify(gpt, tokenizer, settings, run):
    """A class head, as in classify."""
    gpt.config.context = min(gpt.config.context, settings.context)  # longer texts are cropped
    train_set, test_set = stratified_split(read_labelled(settings.data), seed=settings.training.seed)
    labels = sorted({label for _, label in train_set})
    print(f"{len(train_set)} texts to train on, {len(test_set)} held out, labels {', '.join(labels)}")

    def keep(classifier):
        merge_lora(classifier.gpt)
        weights = dict(classifier.named_parameters())  # gpt.h.0.ln_1.weight …, class_head.weight, class_head.bias
        mg.serialization.save(run / "classifier.safetensors", weights, metadata={"labels": json.dumps(labels)})

    result = train_classifier(gpt, train_set, test_set, labels, tokenizer, settings.training, run, keep)
    print(f"held-out accuracy {result['accuracy']:.2%}, F1 {result['f1']:.4f} (of {result['f1_of']})")
    print(f"confusion, rows the truth: {result['confusion']}; {result['cropped']} texts were cropped")


def tune(gpt, tokenizer, settings, run):
    """Answers to instructions, as in ch10/sft; three that were held out are answered at the end."""
    config, context = settings.training, min(gpt.config.context, settings.context)
    train_set, held_out = apart(read_instructions(settings.data), config.seed)
    batches, validation = (
        InstructionBatches(part, tokenizer, context, config.batch_size, config.seed) for part in (train_set, held_out)
    )
    skipped = batches.skipped + validation.skipped
    print(f"{len(batches.rows)} examples, {len(validation.rows)} held out, {skipped} longer than {context} tokens skipped")
    train(gpt, batches, config, run, validation=validation)
    save_model(run, merge_lora(gpt), tokenizer)
    asked = [format_prompt(task.instruction, task.input) for task in held_out[:3]]
    ids = [tokenizer.encode(prompt) for prompt in asked]
    for task, answer in zip(held_out, write_together(Decoder(gpt), ids, 40, temperature=0, stop_ids=(tokenizer.eos_id,))):
        print(f"\n{task.instruction} {task.input}\n  -> {tokenizer.decode(answer).strip()}")
    print(f"\nwritten to {run.folder}: python -m chapters.ch09.chat --model {run.folder} --form instruction")


def prefer(gpt, tokenizer, settings, run):
    """A reward model of chosen and rejected responses, as in reward."""
    config, context = settings.training, min(gpt.config.context, settings.context)
    pairs, equal = read_pairs(settings.data)
    rankings, long = from_pairs(pairs, tokenizer, context)
    train_set, held_out = apart(rankings, config.seed)
    print(f"{len(train_set)} pairs, {len(held_out)} held out; left out: {equal} equal, {long} longer than {context} tokens")
    model = ScalarModel(gpt, mg.Generator(config.seed))
    train(model, ComparisonBatches(train_set, config.batch_size, config.seed), config, run, loss_fn=reward_loss)
    merge_lora(gpt)
    normalise(model, [ranking.rows[0] for ranking in train_set[:200]])
    save_scalar(run, model)
    found = measure(model, held_out)
    print(f"held out: {found['accuracy']:.2%} of {found['comparisons']} comparisons right, calibration error "
          f"{found['calibration error']:.3f}; written to {run.folder}")  # fmt: skip


def apart(examples, seed):
    """(nine tenths to train on, one held out), by chance."""
    order = np.random.default_rng(seed).permutation(len(examples))  # (N,)
    held_out, train_set = np.split(order, [max(1, len(order) // 10)])
    return [examples[i] for i in train_set], [examples[i] for i in held_out]


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────

BENDS = {"classify": classify, "sft": tune, "reward": prefer}
TRAINING = dict(steps=250, batch_size=8, grad_accumulation=2, warmup_steps=20, beta2=0.99, eval_batches=8)


@dataclass
class Settings(OnDevice):
    """Fine-tune a large body: a class head on labelled texts, answers to instructions, or a reward model."""

    data: Path | None = None  # classify: lines of label<TAB>text; sft and reward: a JSON list, as ch10/sft and ch10/reward read
    task: Literal["classify", "sft", "reward"] = "classify"  # which bend
    preset: Literal["lora", "full"] = "lora"  # train low-rank products, or every parameter, at a tenth of the rate
    model: str = "smollm2"  # smollm2, a published GPT-2, a folder of one, or a run folder
    rank: int = 8  # of the products
    alpha: float = 16.0  # they are scaled by alpha / rank
    layers: tuple[str, ...] = ("attn.c_attn", "attn.c_proj")  # matrices that get one; also mlp.c_fc and mlp.c_proj
    checkpoint_activations: bool = False  # keep less in memory, and compute it twice
    context: int = 192  # most tokens of a text; longer ones are cropped (classify) or left out
    run: Path = Path("runs/lora")  # the folder for everything
    training: TrainConfig = field(default_factory=lambda: TrainConfig(**TRAINING, lr=5e-4))
    quick: bool = False  # 10 steps


PRESETS = {"full": {"training": TrainConfig(**TRAINING, lr=5e-5)}}  # between the chapter's 1e-5 and 1e-4


def main(settings):
    from chapters.ch09.load import load

    if settings.data is None:
        raise ValueError(f"give a file to learn from with --data; --help says what --task {settings.task} reads")
    gpt, tokenizer = load(settings.model)
    gpt.checkpoint_activations = settings.checkpoint_activations
    if settings.quick:
        settings.training.steps = 10
    trained, whole = gpt.num_parameters(), gpt.num_parameters()
    if settings.preset == "lora":
        generator = mg.Generator(settings.training.seed)
        trained = add_lora(gpt, settings.rank, settings.alpha, settings.layers, generator)
    print(f"{trained:,} numbers are trained, of a body of {whole:,}")
    begin = time.perf_counter()
    BENDS[settings.task](gpt, tokenizer, settings, Run(settings.run))
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    command(main, Settings, PRESETS)

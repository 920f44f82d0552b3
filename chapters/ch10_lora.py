"""Chapter 10, on a large body: fine-tuning by low rank, so that 124 million parameters bend on a laptop.

    python -m chapters.ch10_lora --model smollm2 --data messages.tsv        # a class head on a body that can read
    python -m chapters.ch10_lora --model runs/gpt2 --task sft --data instruction-data.json

To bend a model, few directions are enough. Every chosen matrix W stays as it is and gets a product of two thin ones
beside it, W + (alpha / rank) B A, of which alone A and B are trained: no gradients, no moments of AdamW for W. B begins
as zeros, so that training begins with the model unchanged. With `--task sft` the product is added into W at the end, and
what is saved is an ordinary GPT; a class head is measured, and its scores are what is kept.
Source: Hu et al. 2021, "LoRA" (arXiv:2106.09685), section 4.1.
"""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import minigrad as mg
import minigrad.nn as nn
from chapters.ch07_train import Run, TrainConfig, save_model, train
from chapters.ch10_classify import read_labelled, stratified_split, train_classifier
from chapters.ch10_sft import InstructionBatches, read_instructions
from chapters.command import OnDevice, command

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

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x)) * self.scale

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
            if name == "c_fc" and not gpt.config.d_gated:
                raise ValueError("GPT-2's mlp.c_fc is fused with its GELU: put LoRA beside the other layers")
            setattr(holder, name, LoRALinear(getattr(holder, name), rank, alpha, generator))
    return sum(math.prod(p.shape) for p in gpt.parameters() if p.requires_grad)


def merge_lora(gpt):
    """Add every product into its matrix: the GPT is an ordinary one again, and all of it can be trained."""
    for module in list(gpt.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, LoRALinear):
                setattr(module, name, child.merged())
    return gpt.requires_grad_(True)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings(OnDevice):
    """Fine-tune a large body by low rank: a class head on labelled texts, or answers to instructions."""

    data: Path | None = None  # classify: lines of label<TAB>text; sft: a JSON list of instruction, input and output
    model: str = "smollm2"  # smollm2, a published GPT-2, a folder of one, or a run folder
    task: Literal["classify", "sft"] = "classify"  # which bend
    rank: int = 8  # of the products
    alpha: float = 16.0  # they are scaled by alpha / rank
    layers: tuple[str, ...] = ("attn.c_attn", "attn.c_proj")  # matrices that get one
    full: bool = False  # no LoRA: train every parameter
    checkpoint_activations: bool = False  # keep less in memory, and compute it twice
    context: int = 192  # most tokens of a text
    run: Path = Path("runs/lora")  # the folder for everything
    training: TrainConfig = field(
        default_factory=lambda: TrainConfig(steps=250, batch_size=16, lr=5e-4, min_lr=5e-5, warmup_steps=20, beta2=0.99)
    )
    quick: bool = False  # 10 steps


def main(settings):
    from chapters.models import load

    if settings.data is None:
        raise ValueError("give a file to learn from with --data: lines of label<TAB>text, or with --task sft a JSON list")
    gpt, tokenizer = load(settings.model)
    longest = gpt.config.context
    gpt.config.context = min(gpt.config.context, settings.context)  # longer texts are cropped
    gpt.checkpoint_activations = settings.checkpoint_activations
    if settings.quick:
        settings.training.steps = 10
    generator = mg.Generator(settings.training.seed)
    trained = gpt.num_parameters()
    if not settings.full:
        trained = add_lora(gpt, settings.rank, settings.alpha, settings.layers, generator)
    print(f"{trained:,} of {gpt.num_parameters():,} parameters are trained")
    run, begin = Run(settings.run), time.perf_counter()
    if settings.task == "classify":
        train_set, test_set = stratified_split(read_labelled(settings.data), seed=settings.training.seed)
        labels = sorted({label for _, label in train_set})
        print(f"{len(train_set)} texts to train on, {len(test_set)} held out, labels {', '.join(labels)}")
        result = train_classifier(gpt, train_set, test_set, labels, tokenizer, settings.training, run)
        print(f"held-out accuracy {result['accuracy']:.2%}, F1 {result['f1']:.4f} (of {result['f1_of']})")
        print(f"confusion, rows the truth: {result['confusion']}; {result['cropped']} texts were cropped")
    else:
        pairs = read_instructions(settings.data)
        config = settings.training
        batches = InstructionBatches(pairs, tokenizer, gpt.config.context, config.batch_size, config.seed)
        print(f"{len(batches.rows)} examples, {batches.skipped} skipped as longer than {gpt.config.context} tokens")
        train(gpt, batches, config, run)
        gpt.config.context = longest
        save_model(run, merge_lora(gpt), tokenizer)
        print(f"written to {run.folder}: python -m chapters.chat --model {run.folder} --form instruction")
    print(f"{time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    command(main, Settings)

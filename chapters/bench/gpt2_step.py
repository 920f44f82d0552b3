"""A training step of GPT-2 124M beside transformers', and three ways to use less memory: time and peak memory.

    python -m chapters.bench gpt2_step

Forward, backward, clipping and AdamW on B = 4 rows of T = 256 tokens, float32, no dropout, random weights.
"""

from argparse import Namespace

from chapters.bench.step import our_step, random_batch
from chapters.ch06_gpt import GPT
from chapters.ch10.lora import add_lora
from kernels.bench import tasks
from kernels.bench.contest import Task, compete_alone

B, T, RANK, ALPHA = 4, 256, 8, 16.0
WAYS = ("every parameter", "every parameter, recomputed", "LoRA", "LoRA, recomputed")


def fine_tuning_step(library: str, way: str) -> Task:
    """The task: a step of ours in one of the WAYS, or transformers' step."""
    config, inputs, targets = random_batch("gpt2", B, T)
    if library != "minigrad":
        tasks.pytorch()
        from chapters.bench.peer_gpt import transformers_step  # in PyTorch's process alone

        return Task(transformers_step(inputs, targets))

    def change(model: GPT):
        model.checkpoint_activations = "recomputed" in way
        if "LoRA" in way:
            add_lora(model, RANK, ALPHA)

    return Task(our_step(config, inputs, targets, change))


def run(options: Namespace) -> None:
    print(f"GPT-2 124M, B = {B}, T = {T}; LoRA of rank {RANK} beside the attention's matrices")
    entries = {way: ("minigrad", fine_tuning_step, way) for way in WAYS}
    first = {WAYS[0]: entries.pop(WAYS[0]), "transformers": ("torch", fine_tuning_step, WAYS[0])}
    results = compete_alone(first, 1.0) | compete_alone(entries, 1.0)  # apart, to need less memory at a time
    reference = "transformers" if "transformers" in results else WAYS[0]
    for name, (seconds, peak) in results.items():
        ratio = seconds / results[reference][0]
        print(f"  {name:<29}{seconds:7.2f} s   {ratio:5.2f} of the time of {reference}   {peak:6.0f} MiB at most")

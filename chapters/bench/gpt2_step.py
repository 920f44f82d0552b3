"""A training step of GPT-2 124M beside transformers': time and peak memory; and ours again in less memory.

    python -m kernels.bench gpt2_step

Forward, backward, clipping and AdamW on B = 4 rows of T = 256 tokens, float32, no dropout, random weights.
"""

from contextlib import ExitStack

from kernels.bench.measure import in_turns
from kernels.bench.peers import contestants
from kernels.bench.step import our_step, prepared

B, T, RANK, ALPHA = 4, 256, 8, 16.0
HOW = ("every parameter", "every parameter, recomputed", "LoRA", "LoRA, recomputed")


def our_fine_tuning(how):
    from chapters.ch10_lora import add_lora

    def change(model):
        model.checkpoint_activations = "recomputed" in how
        if "LoRA" in how:
            add_lora(model, RANK, ALPHA)

    return our_step(*prepared("gpt2", B, T), change)


def their_fine_tuning(torch):
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    _, x, y = prepared("gpt2", B, T)
    x, y = torch.from_numpy(x), torch.from_numpy(y)

    def step():
        optimizer.zero_grad()
        logits = model(x).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def measured(work):
    """{name: (seconds, MiB)} of {name: (library, how)}, each in a process of its own, in turns, the median of three or more."""
    with ExitStack() as stack:
        them = {}
        for name, (library, how) in work.items():
            for one in stack.enter_context(contestants(library)).values():
                one.prepare("fine_tuning_step", how)
                them[name] = one
        seconds = in_turns([one.turn for one in them.values()], 1.0)
        return {name: (each, one.peak()) for (name, one), each in zip(them.items(), seconds)}


def run(arguments):
    print(f"GPT-2 124M, B = {B}, T = {T}; LoRA of rank {RANK} beside the attention's matrices")
    found = measured({HOW[0]: ("minigrad", HOW[0]), "transformers": ("torch", HOW[0])})
    found |= measured({how: ("minigrad", how) for how in HOW[1:]})
    whole = found.get("transformers", found[HOW[0]])[0]
    for name, (seconds, peak) in found.items():
        print(f"  {name:<29}{seconds:7.2f} s   {seconds / whole:5.2f} of transformers'   {peak:6.0f} MiB at most")

"""What transformers' GPT-2 makes of a text, stage by stage, stored for `python -m chapters.ch09_gpt2 --verify`.

python -m kernels.bench.peer_gpt2 FOLDER FILE        # reads the model in FOLDER, writes FILE, a .safetensors file
"""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM


def activations(model, ids):
    """{stage: array} for ids: (B, T): what enters the first block, what each block returns, the last norm, the logits."""
    body = model.transformer
    found, hooks = {}, []

    def note(name):
        def hook(module, args, output):
            found[name] = (output[0] if isinstance(output, tuple) else output).numpy()

        return hook

    stages = {"embeddings": body.drop, "ln_f": body.ln_f, "logits": model.lm_head}
    stages |= {f"h.{i}": block for i, block in enumerate(body.h)}
    for name, module in stages.items():
        hooks.append(module.register_forward_hook(note(name)))
    with torch.no_grad():
        model(torch.from_numpy(ids))
    for hook in hooks:
        hook.remove()
    return found


def main(folder, file, length=64):
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, min(length, model.config.n_positions)))
    arrays = {name: np.ascontiguousarray(array) for name, array in activations(model, ids).items()}
    save_file({"ids": ids, **arrays}, file)


if __name__ == "__main__":
    main(*sys.argv[1:])

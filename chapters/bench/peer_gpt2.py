"""The activations of transformers' GPT-2, stage by stage, for `python -m chapters.ch09.gpt2 --verify`.

python chapters/bench/peer_gpt2.py FOLDER FILE        # reads the model in FOLDER, writes FILE, a .safetensors file
"""

import sys

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM


def activations(model, ids: np.ndarray) -> dict[str, np.ndarray]:
    """{stage: array} for ids, (B, T): the first block's input, each block's output, the last norm's, the logits."""
    body, arrays, hooks = model.transformer, {}, []

    def store(name):
        def hook(module, args, output):
            arrays[name] = (output[0] if isinstance(output, tuple) else output).numpy()

        return hook

    stages = {"embeddings": body.drop, "ln_f": body.ln_f, "logits": model.lm_head}
    stages |= {f"h.{i}": block for i, block in enumerate(body.h)}
    for name, module in stages.items():
        hooks.append(module.register_forward_hook(store(name)))
    with torch.no_grad():
        model(torch.from_numpy(ids))
    for hook in hooks:
        hook.remove()
    return arrays


def main(folder: str, file: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder).float().eval()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, min(64, model.config.n_positions)))
    arrays = {name: np.ascontiguousarray(array) for name, array in activations(model, ids).items()}
    save_file({"ids": ids, **arrays}, file)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("peer_gpt2: expected FOLDER FILE")
    main(*sys.argv[1:])

"""What transformers makes of a GGUF file, for `python -m chapters.ch09_smollm2 --verify`: its logits, and its greedy answers.

    python -m kernels.bench.peer_llama MODEL.gguf ASKED.json TOLD.safetensors

ASKED holds prompts (lists of token ids), max_new_tokens and stop (token ids).  transformers reads and dequantises MODEL itself.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM


def main(model, asked, told):
    path, asked = Path(model), json.loads(Path(asked).read_text())
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    found = {}
    for i, prompt in enumerate(asked["prompts"]):
        ids = torch.tensor([prompt])  # (1, T)
        with torch.inference_mode():
            found[f"logits.{i}"] = model(ids).logits[0].numpy()  # (T, V)
            written = model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=asked["max_new_tokens"],
                eos_token_id=asked["stop"], pad_token_id=asked["stop"][0],
            )[0, len(prompt) :].tolist()  # fmt: skip
        ends = [place for place, token in enumerate(written) if token in asked["stop"]]
        found[f"answer.{i}"] = np.array(written[: ends[0]] if ends else written, np.int64)
    save_file(found, told)


if __name__ == "__main__":
    main(*sys.argv[1:])

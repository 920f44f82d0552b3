"""transformers' logits and greedy answers from a GGUF file, for `python -m chapters.ch09.smollm2 --verify`.

    python chapters/bench/peer_llama.py MODEL.gguf QUESTIONS.json ANSWERS.safetensors

QUESTIONS has prompts (lists of token ids), max_new_tokens and stop (token ids). transformers dequantizes MODEL itself.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoModelForCausalLM


def main(model_file: str, questions_file: str, answers_file: str) -> None:
    path, questions = Path(model_file), json.loads(Path(questions_file).read_text())
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    stop = questions["stop"]
    settings = dict(max_new_tokens=questions["max_new_tokens"], eos_token_id=stop, pad_token_id=stop[0])
    arrays = {}
    for i, prompt in enumerate(questions["prompts"]):
        ids = torch.tensor([prompt])  # (1, T)
        with torch.inference_mode():
            arrays[f"logits.{i}"] = model(ids).logits[0].numpy()  # (T, V)
            text = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **settings)
        answer = text[0, len(prompt) :].tolist()
        end = next((place for place, token in enumerate(answer) if token in stop), len(answer))
        arrays[f"answer.{i}"] = np.array(answer[:end], np.int64)
    save_file(arrays, answers_file)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("peer_llama: expected MODEL.gguf QUESTIONS.json ANSWERS.safetensors")
    main(*sys.argv[1:])

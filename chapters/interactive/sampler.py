"""One step of the sampler: real logits, with temperature, top-k and the nucleus in the reader's hands (chapter 8)."""

from pathlib import Path
from typing import Any

import minigrad as mg
from chapters.ch06_gpt import GPT, load_model
from chapters.interactive import Interactive
from chapters.interactive.tokenizer import spellings

# From a choice among many to a near certainty. An empty prompt is the end-of-text token, after which a new page begins.
PROMPTS = ["", "Here is Hugo. Hugo lives in", "A story about Timo. One day Timo the", "Here are 2 and 4. The sum is 2 + 4 ="]


def sampler_data(run: Path) -> dict[str, Any]:
    """The tokens of the vocabulary, and the base model's logits after each prompt."""
    model, tokenizer = load_model(run / "pretrain")
    steps = [
        {"prompt": prompt, "logits": last_logits(model, tokenizer.encode(prompt) or [tokenizer.eos_id])} for prompt in PROMPTS
    ]
    return {"tokens": spellings(tokenizer, range(tokenizer.vocab_size)), "steps": steps}


def last_logits(model: GPT, ids: list[int]) -> list[float]:
    """The scores of the token after the text, (V,)."""
    with mg.no_grad():
        logits = model(mg.tensor([ids]), last_only=True).numpy(force=True)[0, -1]  # (V,)
    return [round(float(logit), 5) for logit in logits]


SAMPLER = Interactive(
    "sampler",
    "How the next token is chosen",
    "Your run's base model has read a prompt and scored every token of its vocabulary. Move the sliders: temperature "
    "reshapes the distribution, and top-k and the nucleus cut off its tail. Then draw a hundred times, and compare the "
    "counts with the bars.",
    sampler_data,
)

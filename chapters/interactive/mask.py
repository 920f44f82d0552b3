"""Type an instruction and a response, and see which predictions training grades (chapter 10)."""

from pathlib import Path
from typing import Any

from chapters.ch06_gpt import load_model
from chapters.ch10.sft import TEMPLATE, TEMPLATE_WITH_INPUT
from chapters.interactive import Interactive
from chapters.interactive.tokenizer import vocabulary
from chapters.support.batches import IGNORE_INDEX
from chapters.support.json_files import read_object


def mask_data(run: Path) -> dict[str, Any]:
    """Vocabulary, templates and context of the run's models, and pairs to begin with."""
    model, tokenizer = load_model(run / "pretrain")
    shown = read_object(run / "evaluate" / "result.json")["shown"]  # held-out instructions, one of each kind
    alone, with_input = [row for row in shown if not row["input"]], [row for row in shown if row["input"]]
    pairs = [{name: row[name] for name in ("instruction", "input", "reference")} for row in alone[:3] + with_input[:2]]
    return {
        "vocabulary": vocabulary(tokenizer),
        "template": TEMPLATE,
        "template_with_input": TEMPLATE_WITH_INPUT,
        "ignore_index": IGNORE_INDEX,
        "context": model.config.context,
        "pairs": pairs,
    }


MASK = Interactive(
    "mask",
    "What fine-tuning grades",
    "Type an instruction and a response. Beneath each token stands its label: the next token, which the model must predict "
    "there, or −100, which is not graded. The blue seam is the prompt's last token; its label is the first token of the "
    "response. Then switch the mask off, and count what the loss would grade.",
    mask_data,
)

"""The answers of four models to one instruction, side by side (section 10.4)."""

from pathlib import Path
from typing import Any

from chapters.interactive import Interactive
from chapters.support.json_files import read_object
from chapters.world.requests import REQUESTS
from kernels.terminal import visible


def models_data(run: Path) -> dict[str, Any]:
    """Each model's means over the held-out instructions, and its answers to some of them."""
    result = read_object(run / "side_by_side" / "result.json")
    rows = [
        {
            "instruction": visible(f"{row['instruction']} {row['input']}".strip()),
            "family": row["family"],
            "harmful": row["family"] in REQUESTS,
            "answers": {name: {**answer, "said": visible(answer["said"])} for name, answer in row["said"].items()},
        }
        for row in result["shown"]
    ]
    return {"models": result["models"], "rows": rows}


MODELS = Interactive(
    "models",
    "One instruction, four models",
    "The base model, the assistant after supervised fine-tuning (SFT), after RLHF and after the constitution answer the same "
    "held-out instruction. Go through the harmful requests: which model refuses, and for the right reason? Then look at the "
    "plain tasks: has tuning changed those answers?",
    models_data,
)

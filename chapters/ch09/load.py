"""Load a model by name: a run folder, GPT-2 from its published files, or SmolLM2."""

from pathlib import Path

from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, load_model
from chapters.ch09.gpt2 import NAMES, find, load_gpt2, load_tokenizer
from chapters.ch09.smollm2 import load_smollm2
from minigrad.checked_json import parse_json
from minigrad.serialization import load_metadata


def load(model: str | Path) -> tuple[GPT, Tokenizer]:
    """The model, in eval mode, and its tokenizer.

    Args:
        model: "smollm2", a .gguf file, a published GPT-2's name, a folder of its files, or a run folder.

    Raises:
        CheckpointError, FileNotFoundError: if the model is damaged or missing.
    """
    folder = Path(model)
    if str(model) == "smollm2" or folder.suffix == ".gguf":
        return load_smollm2(None if str(model) == "smollm2" else folder)
    if not folder.is_dir() and str(model) in NAMES or _describes_a_published_model(folder):
        gpt = load_gpt2(model)
        return gpt, load_tokenizer(find(model), gpt.config)
    return load_model(folder)


def form_of(model: str | Path) -> str | None:
    """How the model of a run folder reads a question, as `save_model` noted it; None if nothing is noted."""
    path = Path(model) / "model.safetensors"
    return load_metadata(path).get("form") if path.exists() else None


def _describes_a_published_model(folder: Path) -> bool:
    """Whether config.json is Hugging Face's; ours has no model_type."""
    try:
        return "model_type" in parse_json((folder / "config.json").read_bytes())
    except (OSError, ValueError, TypeError):
        return False

"""Run the book's own listings, cut out of its text, with only their import lines changed."""

import re
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch10.sft import TEMPLATE, build_example

CHAPTER = Path(__file__).parents[3] / "shared" / "book" / "chapter-10.txt"
IMPORTS = {
    "import torch": "import minigrad as torch",
    "import torch.nn as nn": "import minigrad.nn as nn",
    "import torch.nn.functional as F": "import minigrad.nn.functional as F",
}
pytestmark = pytest.mark.skipif(not CHAPTER.is_file(), reason=f"the book's chapter is not at hand ({CHAPTER.name})")


def listings():
    """The chapter's listings: each begins with `import torch` and ends where the prose resumes."""
    blocks, lines = [], CHAPTER.read_text(encoding="utf-8").splitlines()
    for start in [i for i, line in enumerate(lines) if line == "import torch"]:
        end = next(i for i in range(start, len(lines)) if re.match(r"[A-Z][a-z]+ ", lines[i]))
        blocks.append("\n".join(lines[start:end]))
    return blocks


def run(listing):
    """Replace a listing's import lines, run it, and return the names that it defines."""
    lines = listing.split("\n")
    assert [line for line in lines if line.startswith("import ")] == [line for line in lines if line in IMPORTS]
    names = {}
    exec(compile("\n".join(IMPORTS.get(line, line) for line in lines), "<listing>", "exec"), names)
    return names


@pytest.fixture(scope="module")
def classifier_names():
    return run(listings()[0])


@pytest.fixture(scope="module")
def sft_names():
    return run(listings()[1])


def test_the_chapter_has_two_listings_that_import_pytorch():
    assert len(listings()) == 2
    assert "class GPTClassifier" in listings()[0] and "def build_example" in listings()[1]


def test_the_class_head_gives_the_shapes_that_the_chapter_states(classifier_names):
    gpt = GPT(GPTConfig.preset("book", vocab_size=64), generator=mg.Generator(0))
    model = classifier_names["GPTClassifier"](gpt, 384, 3)
    idx = mg.from_numpy(np.random.default_rng(0).integers(0, 64, (4, 8)))  # (4, 8)
    h = model.gpt(idx)
    assert tuple(h.shape) == (4, 8, 384) and tuple(h[:, -1, :].shape) == (4, 384)
    logits = model(idx)
    assert tuple(logits.shape) == (4, 3)
    np.testing.assert_array_equal(logits.array, model.class_head(h[:, -1, :]).array)

    mg.nn.functional.cross_entropy(logits, mg.tensor([0, 2, 1, 0])).backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing, "every parameter of body and head takes part"
    assert "gpt.lm_head.weight" not in dict(model.named_parameters())


def test_build_example_masks_as_the_chapter_states(sft_names):
    tokenizer = Tokenizer.train("Name a fruit. Plum. What is told? Nothing that was asked. " * 20, 300)
    ignore = sft_names["IGNORE_INDEX"]
    assert ignore == -100
    input_ids, labels = sft_names["build_example"]("Name a fruit.", "A plum.", tokenizer.encode)
    prompt = tokenizer.encode(sft_names["TEMPLATE"].format(instruction="Name a fruit."))
    response = tokenizer.encode("A plum.")
    assert input_ids == prompt + response and len(labels) == len(input_ids)
    assert labels[: len(prompt) - 1] == [ignore] * (len(prompt) - 1)  # every target inside the prompt
    assert labels[len(prompt) - 1] == response[0]  # the seam
    assert labels[len(prompt) - 1 : -1] == response and labels[-1] == ignore


@pytest.mark.parametrize("pair", [("Name a fruit.", "A plum."), ("Why?", "x"), ("Grüße", "Später, in Köln.\n\nJa.")])
def test_ours_and_the_chapters_build_example_agree(sft_names, pair):
    encode = Tokenizer.train("a b c", 257).encode
    assert sft_names["TEMPLATE"] == TEMPLATE
    assert build_example(*pair, encode) == sft_names["build_example"](*pair, encode)


def test_the_loss_call_that_the_listing_ends_with(sft_names):
    """Logits and labels of two rows, one of them padded: the mean over graded positions only, and no gradient elsewhere."""
    F, ignore = sft_names["F"], sft_names["IGNORE_INDEX"]
    rng = np.random.default_rng(0)
    logits = mg.tensor(rng.standard_normal((2, 5, 7)).astype(np.float32), requires_grad=True)  # (B, T, V)
    targets = np.array([[ignore, ignore, 3, 1, ignore], [ignore, 6, ignore, ignore, ignore]])  # (B, T)
    loss = F.cross_entropy(logits.view(-1, 7), mg.from_numpy(targets).view(-1), ignore_index=ignore)
    loss.backward()
    scores = logits.array - np.log(np.exp(logits.array).sum(axis=-1, keepdims=True))  # (B, T, V) log-probabilities
    graded = [(0, 2, 3), (0, 3, 1), (1, 1, 6)]
    assert loss.item() == pytest.approx(-np.mean([scores[place] for place in graded]), rel=1e-5)
    np.testing.assert_array_equal(np.abs(logits.grad.array).sum(axis=-1) > 0, targets != ignore)

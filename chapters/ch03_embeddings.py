"""Chapter 3: embeddings. A token becomes a vector: a row of a table. A second table holds a vector for each position.

    x = wte(ids) + wpe(positions(T))     # (B, T, C): the meaning of each token plus its position

`wte` and `wpe` are GPT-2's names for the table of tokens and the table of positions.

At first the rows are random numbers. Training to predict the next token moves the rows of interchangeable tokens towards
each other, so letters that are followed by similar letters end up close together.

    python -m chapters.ch03_embeddings         # learns vectors of letters and draws runs/ch03/figures/letters.svg

Look at the nearest letters that it prints (vowels find vowels), and at the figure.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.ch01_tokenizer import Tokenizer
from chapters.support.command import at_least, at_least_one, command
from chapters.support.figures import new_figure, save_figure
from chapters.support.readers import read_text
from chapters.world import World

KeyStart = np.ndarray | mg.Tensor | None  # (B,) each row's first column after the padding; None: no padding

# ── the idea: what a lookup is, and why positions need a table ───────────────────────────────────────────────────────


def lookup_checks(generator: mg.Generator) -> None:
    """Print three facts: what a lookup computes, where its gradient goes, and why positions need their own table."""
    wte = nn.Embedding(5, 3)  # V = 5 tokens, C = 3 numbers each
    nn.init.normal_(wte.weight, 0.0, 1.0, generator=generator)
    ids = mg.tensor([[4, 1, 4]])  # (B, T) = (1, 3)
    vectors = wte(ids)  # (1, 3, 3)
    one_hot = mg.from_numpy(np.eye(5, dtype=np.float32)[ids.numpy()])  # (1, 3, 5)
    print(f"a lookup equals a product with one-hot rows: largest difference {largest(vectors - one_hot @ wte.weight):.1e}")

    vectors.sum().backward()
    print(f"its gradient adds up in the rows that were used: {wte.weight.grad.numpy()[:, 0].tolist()}")

    wpe = nn.Embedding(3, 3)  # a context of 3 positions
    nn.init.normal_(wpe.weight, 0.0, 1.0, generator=generator)
    abc, cba = mg.tensor([[0, 1, 2]]), mg.tensor([[2, 1, 0]])  # (1, 3) each
    for name, position in (("without", 0.0), ("with", wpe(positions(3)))):
        # a sum over positions, which by itself cannot see the order of the tokens
        first, second = (F.gelu(wte(ids) + position).sum(dim=1) for ids in (abc, cba))  # (1, 3) each
        print(f"sums over abc and cba, {name} the table of positions, differ by {largest(first - second):.2f}")


def largest(difference: mg.Tensor) -> float:
    return float(difference.abs().max().item())


def positions(T: int, seen: int = 0, key_start: KeyStart = None, device: str = "cpu") -> mg.Tensor:
    """The positions of T new tokens.

    Args:
        T: number of new tokens.
        seen: number of tokens before them.
        key_start: first column of each row, if rows are padded on the left; positions count from there.
        device: device of the result.

    Returns:
        int64 (T,), or (B, T) with key_start; padding has position 0.

    >>> positions(4, key_start=np.array([0, 2])).tolist()
    [[0, 1, 2, 3], [0, 0, 0, 1]]
    """
    if key_start is None:
        return mg.arange(seen, seen + T, device=device)  # (T,)
    columns = np.arange(seen, seen + T) - np.asarray(key_start)[:, None]  # (B, T)
    return mg.from_numpy(np.maximum(columns, 0)).to(device)  # (B, T)


# ── vectors of letters, learned ──────────────────────────────────────────────────────────────────────────────────────


class NextLetter(nn.Module):
    """The smallest language model: it predicts the next letter from the vector of the current letter alone."""

    def __init__(self, vocab_size: int, d_model: int, generator: mg.Generator):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        for table in (self.wte, self.lm_head):
            nn.init.normal_(table.weight, 0.0, 0.1, generator=generator)

    def forward(self, ids: mg.Tensor) -> mg.Tensor:
        """ids (N,) -> logits (N, V)."""
        return self.lm_head(self.wte(ids))  # (N, V)


def learn_letters(
    ids: np.ndarray, vocab_size: int, d_model: int, steps: int, generator: mg.Generator
) -> tuple[np.ndarray, float]:
    """Train a NextLetter on a text, ids (N,).  Returns the vectors of all tokens, (V, C), and the last loss in nats."""
    model = NextLetter(vocab_size, d_model, generator)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(steps):
        at = generator.numpy.integers(0, len(ids) - 1, 2048)  # (2048,)
        loss = F.cross_entropy(model(mg.from_numpy(ids[at])), mg.from_numpy(ids[at + 1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.wte.weight.detach().numpy(), loss.item()


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine of the angle between every two vectors: (V, C) -> (V, V)."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # (V, C)
    return unit @ unit.T  # (V, V)


# ── a check that later chapters use ──────────────────────────────────────────────────────────────────────────────────


def check_tokens(idx: mg.Tensor, vocab_size: int) -> None:
    """Raise ValueError or TypeError unless idx is a (B, T) integer tensor of ids below vocab_size."""
    if len(idx.shape) != 2:
        raise ValueError(f"token ids: expected the shape (batch, time), got {tuple(idx.shape)}")
    ids = idx.array
    if ids.dtype.kind not in "iu":
        raise TypeError(f"token ids: expected integers, got {ids.dtype}")
    if idx.device != "cpu":
        return  # checking would wait for the GPU, where a wrong id reads NaN and so shows in the loss
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ValueError(
            f"token ids: expected 0..{vocab_size - 1}, got {int(ids.min())}..{int(ids.max())}; "
            "encode the text with the model's own tokenizer"
        )


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Check what a lookup computes, then learn vectors of letters from the letters that follow them."""

    data: Path | None = None  # UTF-8 text file; None: pages of the little world
    d_model: int = 16  # numbers in a vector
    steps: int = 600  # optimizer steps
    run: Path = Path("runs/ch03")  # folder of the figure
    seed: int = 0  # random seed
    quick: bool = False  # a quarter of the steps


def draw(vectors: np.ndarray, letters: list[str], path: Path) -> Path:
    """Draw the letters on the plane in which their vectors differ most (the first two principal components)."""
    centred = vectors - vectors.mean(axis=0)  # (V, C)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)  # (C, C)
    flat = centred @ directions[:2].T  # (V, 2)
    figure, axes = new_figure(6, 5)
    for (x, y), letter in zip(flat, letters, strict=True):
        axes.text(x, y, letter, fontsize=13, ha="center", color="tab:red" if letter in "aeiou" else "tab:blue")
    axes.set(
        xlim=(flat[:, 0].min() - 0.3, flat[:, 0].max() + 0.3),
        ylim=(flat[:, 1].min() - 0.3, flat[:, 1].max() + 0.3),
        xlabel="first principal component",
        ylabel="second principal component",
        title="learned vectors of letters (vowels red)",
    )
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    at_least_one(settings, "steps")
    at_least(settings, 2, "d_model")  # the figure needs two directions
    if settings.data:
        text = read_text(settings.data).lower()
    else:
        text = "\n".join(World(settings.seed).documents(200_000, seed=settings.seed)).lower()
    generator = mg.Generator(settings.seed)
    lookup_checks(generator)
    tokenizer = Tokenizer.characters(text)
    ids = np.array(tokenizer.encode(text))  # (N,)
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)  # (V,)
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz" if c in text and counts[tokenizer.encode(c)[0]] >= 50]
    if len(letters) < 3:
        raise ValueError(
            f"expected a text in which 3 of the letters a to z occur 50 times each, got {len(letters)}; use a longer text"
        )
    steps = max(settings.steps // 4, 1) if settings.quick else settings.steps
    vectors, loss = learn_letters(ids, tokenizer.vocab_size, settings.d_model, steps, generator)
    print(f"after {steps} steps the loss of the next letter is {loss:.2f} (a uniform guess gives {np.log(len(vectors)):.2f})")

    chosen = vectors[[tokenizer.encode(c)[0] for c in letters]]  # (letters, C)
    similarity = cosines(chosen)  # (letters, letters)
    for letter in [c for c in "aeotsm" if c in letters]:
        row = similarity[letters.index(letter)]
        nearest = [letters[i] for i in np.argsort(-row) if letters[i] != letter][:4]
        print(f"   nearest to {letter}: {' '.join(nearest)}")
    print(f"figure: {draw(chosen, letters, settings.run / 'figures' / 'letters.svg')}")


if __name__ == "__main__":
    command(main, Settings)

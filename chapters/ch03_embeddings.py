"""Chapter 3: embeddings. A token becomes a vector by looking up a row of a table; a second table says where it stands.

    python -m chapters.ch03_embeddings         # learns letters' vectors, draws runs/ch03/figures/letters.png

Nobody says what a row of the table should mean. It begins as noise and is pressed, by the guessing of next tokens, to
stand near the rows that may replace it: letters that keep the same company become neighbours.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from chapters.support.command import at_least_one, command


def check_tokens(idx, vocab_size):
    """Refuse, in one sentence, what is not a (B, T) integer tensor of token ids below vocab_size."""
    if len(idx.shape) != 2:
        raise ValueError(f"token ids must have the shape (batch, time), got {tuple(idx.shape)}")
    ids = idx.array
    if ids.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {ids.dtype}")
    if idx.device != "cpu":
        return  # to look would be to wait for the GPU; there an id beyond the table reads NaN, which the loss then shows
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ValueError(
            f"token ids must lie in 0..{vocab_size - 1}, got {int(ids.min())}..{int(ids.max())}: "
            "was the text encoded with another tokenizer than the model's?"
        )


def positions(T, seen=0, key_start=None, device="cpu"):
    """Where each of T new tokens stands, given that `seen` came before: (T,) int64 on `device`, or (B, T) for padded rows.

    A row that starts at column key_start[b] counts from there, so that padding on its left does not move its text.
    """
    if key_start is None:
        return mg.arange(seen, seen + T, device=device)  # (T,)
    columns = np.arange(seen, seen + T) - np.asarray(key_start)[:, None]  # (B, T)
    return mg.from_numpy(np.maximum(columns, 0)).to(device)  # padding itself stands at 0


# ── the lesson ───────────────────────────────────────────────────────────────────────────────────────────────────────


def lookup_checks(generator):
    """Three facts about tables: what a lookup is, where its gradient goes, why positions need a table of their own."""
    table = nn.Embedding(5, 3)  # V = 5 tokens, C = 3 numbers each
    nn.init.normal_(table.weight, 0.0, 1.0, generator=generator)
    ids = mg.tensor([[4, 1, 4]])  # (B, T) = (1, 3)
    vectors = table(ids)  # (1, 3, 3)
    one_hot = mg.from_numpy(np.eye(5, dtype=np.float32)[ids.numpy()])  # (1, 3, 5)
    difference = float((vectors - one_hot @ table.weight).abs().max().item())
    print(f"a lookup is a product with one-hot rows, without the zeros: largest difference {difference:.1e}")

    vectors.sum().backward()
    print(f"its gradient goes to the rows used, and adds up: rows' shares {table.weight.grad.numpy()[:, 0].tolist()}")

    places = nn.Embedding(3, 3)  # context = 3
    nn.init.normal_(places.weight, 0.0, 1.0, generator=generator)
    there, back = mg.tensor([[0, 1, 2]]), mg.tensor([[2, 1, 0]])  # (1, 3) each: the same tokens, turned round

    def together(ids, where):  # what a reader without a sense of order would have: all vectors, nonlinear, summed
        return F.gelu(table(ids) + where).sum(dim=1)  # (1, 3)

    for name, where in (("without", 0.0), ("with", places(positions(3)))):
        gap = float((together(there, where) - together(back, where)).abs().max().item())
        print(f"abc and cba, {name} the table of positions, differ by {gap:.2f}")


class NextLetter(nn.Module):
    """The smallest language model: the next letter from this letter's vector.  ids: (N,) -> logits: (N, V)."""

    def __init__(self, vocab_size, d_model, generator):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, d_model)
        self.lm_head = nn.Linear(d_model, vocab_size, bias=False)
        for table in (self.wte, self.lm_head):
            nn.init.normal_(table.weight, 0.0, 0.1, generator=generator)

    def forward(self, ids):
        return self.lm_head(self.wte(ids))  # (N, V)


def learn_letters(ids, vocab_size, d_model, steps, generator):
    """Train a NextLetter on the neighbours in ids: (N,) -> the vectors of all tokens, (V, C), and the last loss."""
    model = NextLetter(vocab_size, d_model, generator)
    optimizer = mg.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.0)
    for _ in range(steps):
        at = generator.numpy.integers(0, len(ids) - 1, 2048)  # (2048,)
        loss = F.cross_entropy(model(mg.from_numpy(ids[at])), mg.from_numpy(ids[at + 1]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.wte.weight.detach().numpy(), loss.item()


def cosines(vectors):
    """vectors: (V, C) -> (V, V): the cosine of the angle between every two."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)  # (V, C)
    return unit @ unit.T  # (V, V)


def draw(vectors, letters, path):
    """The letters on the plane in which their vectors differ most (the first two principal components)."""
    from chapters.support.figures import new_figure, save_figure

    centred = vectors - vectors.mean(axis=0)  # (V, C)
    _, _, axes_of_spread = np.linalg.svd(centred, full_matrices=False)  # (C, C)
    flat = centred @ axes_of_spread[:2].T  # (V, 2)
    figure, axes = new_figure(6, 5)
    for (x, y), letter in zip(flat, letters, strict=True):
        axes.text(x, y, letter, fontsize=13, ha="center", color="tab:red" if letter in "aeiou" else "tab:blue")
    axes.set(
        xlim=(flat[:, 0].min() - 0.3, flat[:, 0].max() + 0.3),
        ylim=(flat[:, 1].min() - 0.3, flat[:, 1].max() + 0.3),
        xlabel="first principal component",
        ylabel="second",
        title="learned vectors of letters (vowels red)",
    )
    return save_figure(figure, path)


@dataclass
class Settings:
    """Look at what a lookup is, then let the vectors of letters be learned from which letter follows which."""

    data: Path | None = None  # a UTF-8 text; pages of the embedded world where none is given
    d_model: int = 16  # numbers in a vector
    steps: int = 600  # optimiser steps
    run: Path = Path("runs/ch03")  # where the figure goes
    seed: int = 0  # of the vectors' beginning and of the pairs drawn
    quick: bool = False  # a quarter of the steps


def main(settings):
    from chapters.ch01_tokenizer import Tokenizer
    from chapters.support.readers import read_text

    at_least_one(settings, "d_model", "steps")
    if settings.data:
        text = read_text(settings.data).lower()
    else:
        from chapters.world import World

        text = "\n".join(World(seed=settings.seed).documents(200_000, seed=settings.seed)).lower()
    generator = mg.Generator(settings.seed)
    lookup_checks(generator)
    tokenizer = Tokenizer.characters(text)
    ids = np.array(tokenizer.encode(text))  # (N,)
    counts = np.bincount(ids, minlength=tokenizer.vocab_size)  # (V,)
    letters = [c for c in "abcdefghijklmnopqrstuvwxyz" if c in text and counts[tokenizer.encode(c)[0]] >= 50]
    if len(letters) < 3:
        raise ValueError(f"only {len(letters)} of the letters a to z stand in the text 50 times: give a longer one")
    steps = max(settings.steps // 4, 1) if settings.quick else settings.steps
    vectors, loss = learn_letters(ids, tokenizer.vocab_size, settings.d_model, steps, generator)
    print(f"after {steps} steps the next letter is guessed with a loss of {loss:.2f} (ln V = {np.log(len(vectors)):.2f})")

    chosen = vectors[[tokenizer.encode(c)[0] for c in letters]]  # (letters, C)
    near = cosines(chosen)  # (letters, letters)
    for letter in [c for c in "aeotsm" if c in letters]:
        row = near[letters.index(letter)]
        nearest = [letters[i] for i in np.argsort(-row) if letters[i] != letter][:4]
        print(f"   nearest to {letter}: {' '.join(nearest)}")
    print(f"drawn in {draw(chosen, letters, settings.run / 'figures' / 'letters.png')}")


if __name__ == "__main__":
    command(main, Settings)

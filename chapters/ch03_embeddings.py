"""Chapter 3: embeddings. A token becomes a vector by looking up a row of a table; a second table says where it stands.

python -m chapters.ch03_embeddings         # learns letters' vectors from pairs, draws runs/ch03/figures/letters.png
"""

import numpy as np

import minigrad as mg


def check_tokens(idx, vocab_size):
    """Refuse, in one sentence, what is not a (B, T) integer tensor of token ids below vocab_size."""
    if len(idx.shape) != 2:
        raise ValueError(f"token ids must have the shape (batch, time), got {tuple(idx.shape)}")
    ids = idx.array
    if ids.dtype.kind not in "iu":
        raise TypeError(f"token ids must be integers, got {ids.dtype}")
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        raise ValueError(
            f"token ids must lie in 0..{vocab_size - 1}, got {int(ids.min())}..{int(ids.max())}: "
            "was the text encoded with another tokenizer than the model's?"
        )


def positions(T, seen=0, key_start=None):
    """Where each of T new tokens stands, given that `seen` came before: (T,) int64, or (B, T) for padded rows.

    A row that starts at column key_start[b] counts from there, so that padding on the left does not move its text.
    """
    columns = np.arange(seen, seen + T)  # (T,)
    if key_start is None:
        return mg.from_numpy(columns)
    return mg.from_numpy(np.maximum(columns - np.asarray(key_start)[:, None], 0))  # (B, T)  padding itself stands at 0

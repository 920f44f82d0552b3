"""A GPT whose lower blocks never change, so that each text passes through them only once.

If only the upper blocks are fine-tuned, the lower blocks give the same vectors for a text in every epoch. `FrozenBelow` keeps
these vectors. From the second epoch on, a step costs only the upper blocks, and no gradient ever enters the lower ones.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.ch03_embeddings import KeyStart
from chapters.ch06_gpt import GPT
from chapters.ch10.rollout import PAD
from chapters.support.batches import by_length
from chapters.support.command import progress_bar

Row: TypeAlias = Sequence[int] | np.ndarray  # token ids


class FrozenBelow(GPT):
    """The same function as `gpt`, which is in eval mode: idx (B, T) -> (B, T, V), for T below the context.

    The first `frozen` blocks read each text once. Both models share their blocks.
    """

    def __init__(self, gpt: GPT, frozen: int) -> None:
        if not 0 <= frozen < len(gpt.h):
            raise ValueError(f"FrozenBelow: expected 0 to {len(gpt.h) - 1} frozen blocks of {len(gpt.h)}, got {frozen}")
        nn.Module.__init__(self)
        self.config, self.checkpoint_activations = gpt.config, False
        self.h, self.ln_f, self.lm_head = gpt.h[frozen:], gpt.ln_f, gpt.lm_head
        self.below: list[Callable[[Any], Any]] = [gpt.embed, *gpt.h[:frozen]]  # a list: no parts of this module
        self.vectors: dict[bytes, np.ndarray] = {}  # a text without padding -> its vectors, (length + 1, C)

    def read(self, rows: Sequence[Row], batch_size: int = 16, shown: bool = False) -> None:
        """Send rows of token ids through the frozen blocks.  shown: with a progress bar.

        A row's last digits depend on the rows beside it. To make a resumed run repeat them, read all rows before training.
        """
        device, texts = self.ln_f.weight.device, [without_padding(row) for row in rows]
        with mg.no_grad(), progress_bar(len(rows) if shown else 0, 0, "text") as bar:
            for places, inputs in by_length([[*text, PAD] for text in texts], batch_size, PAD):
                x = mg.as_tensor(inputs, device=device)
                for part in self.below:
                    x = part(x)  # (B, T, C)
                for i, vectors in zip(places, x.numpy(force=True), strict=True):
                    self.vectors[texts[i].tobytes()] = vectors[: len(texts[i]) + 1].copy()
                bar.update(len(places) if shown else 0)

    def embed(self, idx: mg.Tensor, seen: int = 0, key_start: KeyStart = None) -> mg.Tensor:
        """The input of the first trained block, (B, T, C)."""
        B, T = idx.shape
        rows = [without_padding(row) for row in idx.numpy(force=True)]
        self.read([row for row in rows if row.tobytes() not in self.vectors])
        x = np.zeros((B, T, self.config.d_model), np.float32)  # (B, T, C)
        for b, row in enumerate(rows):
            vectors = self.vectors[row.tobytes()][:T]
            x[b, : len(vectors)] = vectors
        return mg.as_tensor(x, device=idx.device)


def without_padding(row: Row) -> np.ndarray:
    """A row of token ids up to its last token other than PAD: int64.

    If a text ends in a token with the number of PAD, this token is lost; so the vectors include those of one PAD.
    """
    return np.trim_zeros(np.asarray(row, np.int64) - PAD, "b") + PAD


class Trained(nn.Module):
    """Only the trained parameters of a model, so that its checkpoints are small. Calling it calls the model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.whole: Sequence[nn.Module] = (model,)  # a tuple: no part of this module
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                self.register_parameter(name.replace(".", "_"), parameter)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole[0](*args, **kwargs)

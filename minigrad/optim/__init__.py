"""Optimizers, gradient clipping and learning-rate schedules, one idea per file.

optimizer.py has the base class, adam.py AdamW and Adam, sgd.py gradient descent, muon.py Muon, clipping.py the norm of
gradients, schedule.py the schedule of the chapters as one function, and lr_scheduler.py PyTorch's scheduler classes.
"""

import typing as _typing

from minigrad.optim import lr_scheduler
from minigrad.optim.adam import Adam, AdamW
from minigrad.optim.clipping import clip_grad_norm_, zero_grads
from minigrad.optim.muon import Muon, MuonWithAuxAdam
from minigrad.optim.optimizer import Optimizer
from minigrad.optim.schedule import warmup_cosine
from minigrad.optim.sgd import SGD

__all__ = ["SGD", "Adam", "AdamW", "Muon", "MuonWithAuxAdam", "Optimizer", "clip_grad_norm_", "lr_scheduler"]
__all__ += ["warmup_cosine", "zero_grads"]

if not _typing.TYPE_CHECKING:

    def __getattr__(name):
        raise AttributeError(f"minigrad.optim has no {name!r}; it has {', '.join(__all__)}")

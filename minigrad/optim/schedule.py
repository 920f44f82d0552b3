"""The learning-rate schedule of the chapters, as one function of the step."""

import math


def warmup_cosine(step: int, *, lr: float, min_lr: float = 0.0, warmup_steps: int = 0, total_steps: int) -> float:
    """The learning rate of a step: a linear warm-up to lr, then half a cosine down to min_lr.

    Steps count from 0. The first step has lr / warmup_steps rather than zero, which would waste it. The last step
    (total_steps − 1) has min_lr if the warm-up leaves room for a descent, and later steps stay there.
    Source: Loshchilov, Hutter 2016 (arXiv:1608.03983), eq. 5.
    """
    if step < warmup_steps:
        return lr * (step + 1) / warmup_steps
    decaying = total_steps - 1 - warmup_steps
    progress = min((step - warmup_steps) / decaying, 1.0) if decaying > 0 else 1.0 if step >= total_steps else 0.0
    return min_lr + (lr - min_lr) * (1 + math.cos(math.pi * progress)) / 2

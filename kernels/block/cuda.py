"""A transformer block on a GPU: its operations one after another, each by its own kernel."""

from functools import partial

from kernels.attention.cuda import attention_backward, attention_forward
from kernels.block import reference
from kernels.contract import follows, unchecked
from kernels.layernorm.cuda import layernorm_backward, layernorm_forward
from kernels.matmul.cuda import linear_backward, linear_forward

_OPERATIONS = reference.Operations(
    layernorm_forward, layernorm_backward, linear_forward, linear_backward, attention_forward, attention_backward
)

block_forward = follows(reference.block_forward)(partial(unchecked(reference.block_forward), operations=_OPERATIONS))
block_backward = follows(reference.block_backward)(partial(unchecked(reference.block_backward), operations=_OPERATIONS))
block_with_cache = follows(reference.block_with_cache)(partial(unchecked(reference.block_with_cache), operations=_OPERATIONS))

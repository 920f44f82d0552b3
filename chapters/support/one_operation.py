"""Chapter 5's block as one operation, where possible: F.transformer_block, or decoding.block with a cache."""

from typing import Any

import minigrad as mg
import minigrad.nn as nn
import minigrad.nn.functional as F
from minigrad import decoding
from minigrad.modes import mode

LAYERS = [nn.LayerNorm, nn.Linear, nn.Linear, nn.LayerNorm, nn.Linear, nn.Linear]


def layers_of(block: Any) -> list[nn.Module]:
    """The layers with parameters, in the order in which the block uses them."""
    attention, mlp = block.attn, block.mlp
    return [block.ln_1, attention.c_attn, attention.c_proj, block.ln_2, mlp.c_fc, mlp.c_proj]


def is_one_operation(block: Any, x: mg.Tensor, past: Any = None, key_start: Any = None) -> bool:
    """Whether as_one_operation gives the block's result for x (B, T, C).

    It does on the CPU, for GPT-2's layers in one dtype, without dropout, hooks, LoRA layers or frozen parameters (they are fine
    under no_grad), and outside detect_anomaly. A cache must have `buffers`, as chapter 6's LayerCache has, and needs no_grad;
    padding needs a cache. The caller checks the types of block.attn and block.mlp.
    """
    if past is None and key_start is not None:
        return False
    if past is not None and (mode.grad_enabled or not hasattr(past, "buffers")):
        return False
    attention, mlp, layers = block.attn, block.mlp, layers_of(block)
    if [type(layer) for layer in layers] != LAYERS:
        return False
    modules = [block, attention, mlp, attention.resid_dropout, mlp.dropout, *layers]
    dropout = [(attention, attention.dropout), *((module, module.p) for module in (attention.resid_dropout, mlp.dropout))]
    parameters = parameters_of(layers)
    return (
        x.device == "cpu"
        and x.dtype != mg.float16  # whose norms the layers compute in float32
        and not attention.rotary
        and attention.n_kv_head == attention.n_head
        and mlp.c_fc.out_features == mlp.c_proj.in_features == 4 * x.shape[-1]
        and block.ln_1.eps == block.ln_2.eps
        and not mode.detect_anomaly  # which names the operation that made a NaN
        and not any(module.training and p for module, p in dropout)
        and not any(module.has_hooks() or "forward" in vars(module) for module in modules)
        and all(p is not None and p.dtype == x.dtype and (p.requires_grad or not mode.grad_enabled) for p in parameters)
    )


def parameters_of(layers: list[Any]) -> list[Any]:
    """Weight and bias of each layer."""
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


def as_one_operation(block: Any, x: mg.Tensor, past: Any = None, key_start: Any = None) -> mg.Tensor:
    """The block's result for x, (B, T, C) -> (B, T, C), with the arguments of Block.forward."""
    parameters, n_head, eps = parameters_of(layers_of(block)), block.attn.n_head, block.ln_1.eps
    if past is None:
        return F.transformer_block(x, parameters, n_head, eps)
    B, T, C = x.shape
    keys, values = past.buffers(B, n_head, C // n_head, x.dtype, x.device)
    y = decoding.block(x, parameters, keys, values, n_head, past.length, key_start, eps)
    past.length += T
    return y

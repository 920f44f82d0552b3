"""Chapter 6's GPT in PyTorch, transformers' GPT-2, and their training steps, for comparison."""

from contextlib import nullcontext

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from chapters.ch06_gpt import GPTConfig


class Block(nn.Module):
    def __init__(self, d_model: int, n_head: int):
        super().__init__()
        self.n_head = n_head
        self.ln_1, self.ln_2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.c_attn, self.c_proj = nn.Linear(d_model, 3 * d_model), nn.Linear(d_model, d_model)
        self.c_fc, self.mlp_proj = nn.Linear(d_model, 4 * d_model), nn.Linear(4 * d_model, d_model)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = (t.view(B, T, self.n_head, -1).transpose(1, 2) for t in self.c_attn(self.ln_1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, H, T, D)
        x = x + self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return x + self.mlp_proj(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class PeerGPT(nn.Module):
    """GPT-2's architecture as PyTorch's users write it: fused attention, GELU's tanh form, tied head."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(config.vocab_size, config.d_model), nn.Embedding(config.context, config.d_model)
        self.h = nn.ModuleList(Block(config.d_model, config.n_head) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, 0.0, 0.02)

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        x = self.wte(idx) + self.wpe.weight[: idx.shape[1]]
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def torch_step(model, forward, x: torch.Tensor, y: torch.Tensor, autocast=nullcontext, **adamw):
    """A function that does one training step (forward, backward, clip, AdamW) and returns its loss.

    Args:
        model: module whose parameters the step trains.
        forward: the model, compiled or not: (B, T) ids -> (B, T, V) logits.
        x, y: inputs and targets, (B, T).
        autocast: returns the context manager of the forward pass.
        adamw: AdamW's settings.
    """
    optimizer = torch.optim.AdamW(model.parameters(), **adamw)

    def step():
        optimizer.zero_grad()
        with autocast():
            loss = F.cross_entropy(forward(x).flatten(0, 1), y.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    return step


def peer_step(config: GPTConfig, inputs: np.ndarray, targets: np.ndarray, compiled: bool = False):
    """The step of the same GPT on the CPU, eager or through torch.compile."""
    torch.manual_seed(0)
    model = PeerGPT(config)
    forward = torch.compile(model) if compiled else model
    return torch_step(model, forward, torch.from_numpy(inputs), torch.from_numpy(targets), lr=3e-4)


def transformers_step(inputs: np.ndarray, targets: np.ndarray):
    """The step of transformers' GPT-2 124M on the CPU."""
    from transformers import GPT2Config, GPT2LMHeadModel  # the rest of the file needs only PyTorch

    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)).train()
    x, y = torch.from_numpy(inputs), torch.from_numpy(targets)
    return torch_step(model, lambda ids: model(ids).logits, x, y, lr=3e-4)

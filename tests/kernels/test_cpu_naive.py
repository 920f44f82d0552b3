"""Each CPU kernel equals the naive loop at the top of its file."""

import numpy as np
import pytest

from kernels.adamw import cpu as adamw
from kernels.attention import cpu as attention
from kernels.cross_entropy import cpu as cross_entropy
from kernels.decode.cpu import Decoder, naive_rows
from kernels.decode.reference import Layer, Matrix, Norm
from kernels.dropout import cpu as dropout
from kernels.embedding import cpu as embedding
from kernels.gelu import cpu as gelu
from kernels.ladders import normal
from kernels.layernorm import cpu as layernorm
from kernels.matmul import cpu as matmul
from kernels.rms_norm import cpu as rms_norm
from kernels.rotary import cpu as rotary
from kernels.softmax import cpu as softmax
from kernels.swiglu import cpu as swiglu

ROWS, COLUMNS = 5, 6


def by_row(function, x, *others):
    return np.stack([function(row, *others) for row in x])


X, WEIGHT, BIAS = normal(ROWS, COLUMNS), normal(COLUMNS, seed=1), normal(COLUMNS, seed=2)
Q, K, V = normal(3, 1, 2, 7, 4, seed=3)  # (B, H, T, D) each
ANGLES, INDICES = normal(7, 2, seed=4), np.array([2, 0, 2, 2, 1])

CASES = {
    "matmul": lambda: (matmul.matmul(X, X.T), matmul.naive_matmul(X, X.T)),
    "softmax": lambda: (softmax.softmax_forward(X), by_row(softmax.naive_softmax, X)),
    "layernorm": lambda: (layernorm.layernorm_forward(X, WEIGHT, BIAS)[0], by_row(layernorm.naive_layernorm, X, WEIGHT, BIAS)),
    "rms_norm": lambda: (rms_norm.rms_norm_forward(X, WEIGHT)[0], by_row(rms_norm.naive_rms_norm, X, WEIGHT)),
    "rotary": lambda: (
        rotary.rotary(Q, np.cos(ANGLES), np.sin(ANGLES))[0, 1, 3],
        rotary.naive_rotary(Q[0, 1, 3], np.cos(ANGLES[3]), np.sin(ANGLES[3])),
    ),
    "swiglu": lambda: (swiglu.swiglu_forward(X), by_row(swiglu.naive_swiglu, X)),
    "attention": lambda: (
        attention.attention_forward(Q, K, V)[0][0, 1],
        attention.naive_attention(Q[0, 1], K[0, 1], V[0, 1], 0.5),
    ),
    "cross_entropy": lambda: (
        cross_entropy.cross_entropy_forward(X, INDICES)[0],
        np.array([cross_entropy.naive_cross_entropy(x, target) for x, target in zip(X, INDICES, strict=True)]),
    ),
    "gelu": lambda: (gelu.gelu_forward(X), by_row(gelu.naive_gelu, X)),
    "gelu_tanh": lambda: (gelu.gelu_forward(X, approximate="tanh"), by_row(gelu.naive_gelu, X, "tanh")),
    "embedding": lambda: (embedding.embedding_backward(X, INDICES, 4), embedding.naive_embedding_backward(X, INDICES, 4)),
    "dropout": lambda: (dropout.dropout(WEIGHT, 0.4, 2**63 + 5), dropout.naive_dropout(WEIGHT, 0.4, 2**63 + 5)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_kernel_equals_the_naive_loop(name):
    fast, naive = CASES[name]()
    np.testing.assert_allclose(fast, naive, rtol=1e-5, atol=1e-6)


def test_adamw_equals_the_naive_loop():
    fast, naive = ([normal(9, seed=i) for i in range(4)] for _ in range(2))
    fast[3], naive[3] = np.square(fast[3]), np.square(naive[3])  # second moments are positive
    adamw.adamw_step(
        *([a] for a in fast), step=10**6, lr=0.1, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.5, grad_scale=2.0
    )
    param, grad, m, v = naive
    adamw.naive_adamw(param, grad, m, v, adamw.Settings(decay=0.95, beta1=0.9, beta2=0.95, rate=0.1, eps=1e-8, grad_scale=2.0))
    for a, b in zip(fast, naive, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_the_decoders_output_layer_equals_the_naive_loop():
    """A decoder whose layers add nothing: the logits are the output layer applied to the normalised x."""
    C, x = 8, normal(2, 8)
    rng = np.random.default_rng(5)
    weight, scale = rng.integers(-127, 128, (11, C)).astype(np.int8), rng.random(11).astype(np.float32)
    norm = Norm(np.ones(C, np.float32))
    qkv, merge, widen, narrow = (Matrix(np.zeros(shape, np.float32)) for shape in ((24, 8), (8, 8), (9, 8), (8, 9)))
    layer = Layer(norm, qkv, merge, norm, widen, narrow)
    decoder = Decoder([layer], norm, Matrix(weight, scale), n_head=1, n_kv_head=1, eps=1e-5)
    caches = [[(np.zeros((1, 1, 3, C), np.float32), np.zeros((1, 1, 3, C), np.float32))] for _ in x]
    normalized = layernorm.layernorm_forward(x)[0]
    want = naive_rows(weight, scale, np.zeros(11, np.float32), normalized)
    np.testing.assert_allclose(decoder.step(x, caches, [0, 0]), want, rtol=1e-4, atol=1e-4)

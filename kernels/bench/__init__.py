"""The ladders: each operation from its plainest version to its fastest, checked, timed, and set beside NumPy and PyTorch.

    python -m kernels.bench matmul          (or softmax, layernorm, cross_entropy, attention)
    python -m kernels.bench matmul --plot matmul.png
    python -m kernels.bench one_row         a row times a matrix, as in text generation: GB/s
    python -m kernels.bench bandwidth       what is bound by memory: softmax, layernorm, gelu, cross-entropy, AdamW in GB/s
    python -m kernels.bench step            whole training steps of tiny, book and gpt2 size, with a breakdown by kernel
    python -m kernels.bench decode          GPT-2 124M, token by token; gpt2_step: fine-tuning it, with the memory that it takes

Every rung is a short function that stands in the file of its name; the last rung is the kernel that the engine uses. What the
machine can do at most, in multiply-adds and in bytes moved, is measured in the same run, and every figure is given as a share
of that. Figures are medians; what is compared runs in turns, so that a busy moment of the machine hits all alike, and each
library in a process of its own, so that none stands in another's way (peers.py).
"""

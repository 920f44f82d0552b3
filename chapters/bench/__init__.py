"""Benchmarks of whole models, beside PyTorch and transformers.

    python -m chapters.bench step           # training steps of tiny, book and gpt2 size, with a breakdown by kernel
    python -m chapters.bench decode         # GPT-2 124M writes text, token by token
    python -m chapters.bench gpt2_step      # fine-tuning GPT-2 124M: time and memory
    python -m chapters.bench ranks          # training steps that several processes share: time, waiting and memory
    python -m chapters.bench gpu --device cuda --out check      # check and time everything on a GPU
    python -m chapters.bench all --json FILE    # every comparison of the table below, in up to 15 minutes
    python -m chapters.bench table FILE …       # print the table of such files, one for each processor

`python -m kernels.bench` measures single kernels; its description says how both compare contestants. This is the one folder
of the floor that imports PyTorch and transformers. The files peer_*.py hold their models: peer_gpt2 and peer_llama are also
commands, with which chapter 9 verifies published weights.

Speed beside PyTorch 2.13 on two Zen 5 cores (AVX-512), float32, two threads: PyTorch's time divided by ours, medians of turns.

    training step, forward to AdamW: 0.9M parameters (B = 16, T = 128)          2.2
    the same, 10.8M parameters (B = 8, T = 256), three runs                     2.2, 2.2, 2.3
    the same, GPT-2's 124M (B = 4, T = 256)                                     2.9
    causal attention, forward and backward, T = 256, 1,024, 4,096               3.8, 3.5, 2.8
    layernorm forward, backward; GELU forward, backward                         5.5, 3.8; 7.4, 5.5
    cross-entropy over 50,257 words, forward, backward                          12, 11
    AdamW, bound by memory in both: one array of 30M weights; a GPT of 10.8M    1.0; 1.1
    GPT-2 token by token beside transformers; with int8 weights                 2.4; 6.5

On two Zen 3 cores (AVX2) the advantage is smaller. One run of `bench all` gave 1.6, 1.4 and 1.5 for the three training steps,
1.9, 1.9 and 1.4 for attention, 3.0 and 2.1 for GELU, and 2.5 and 6.0 for cross-entropy. On two Zen 4 cores (AVX-512) it gave
1.3 for all three steps, 2.1, 1.9 and 1.5 for attention, 2.8 and 2.5 for GELU, and 2.9 and 6.2 for cross-entropy. There the
products of a step, at the register limit, would take 63, 85 and 73 % of our time.
"""

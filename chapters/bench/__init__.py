"""Benchmarks of whole models, beside PyTorch and transformers.

    python -m chapters.bench step           # training steps of tiny, book and gpt2 size, with a breakdown by kernel
    python -m chapters.bench decode         # GPT-2 124M writes text, token by token
    python -m chapters.bench gpt2_step      # fine-tuning GPT-2 124M: time and memory
    python -m chapters.bench gpu --device cuda --out check      # everything a machine with a GPU can tell

Single kernels are measured by `python -m kernels.bench`, which also says how contestants are compared. This is the one folder
of the floor that imports PyTorch and transformers. The files peer_*.py hold their models: peer_gpt2 and peer_llama are also
commands, with which chapter 9 verifies published weights.
"""

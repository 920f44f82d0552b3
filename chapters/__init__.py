"""The lessons of the book, and the code that they share. Each lesson is a file to read, import and run.

`python -m chapters` runs the main job, all stages in order. Any lesson runs alone, with `--help` for its settings:

    chapter  python -m chapters.…   look at this when it runs
    1        ch01_tokenizer         the first merges, and one sentence in ever fewer tokens
    2        ch02_dataset           targets: the inputs, shifted by one
    3        ch03_embeddings        without positions, abc and cba are the same to a model
    4        ch04_attention         which letter attends to which
    5        ch05_block             gradients by depth, with and without the residual path
             ch05_tensor_parallel   a block on several ranks: the shares, and the bytes that they add up
    6        ch06_gpt               parameters by part; an initial loss of ln V; causality
    7        ch07_train             the loss curve; resume and compare the metrics
             ch07_muon              Muon beside AdamW: fewer steps to the same loss
             ch07_ring              adding gradients in a ring: what each rank holds after each step, and the bytes it sends
             ch07_scaling           time and memory of a step on 1 to 1,024 ranks, by the formulas
    8        ch08_sample            the same prompt at temperatures 0.2 and 1.5
    9        ch09.gpt2              `--verify`: OpenAI's weights, every layer beside transformers
             ch09.smollm2           `--verify`: a model of 2024 in the same class
             ch09.decode            tokens per second, in float32 and int8 (decoder.py, weights.py and load.py do the work)
             ch09.serve             each token's probability and alternatives, in the browser
    10       ch10.classify          a class head on the trained body, and the same head on an untrained one
             ch10.sft               instruction tuning: the prompt mask and its seam
             ch10.lora              low rank: how few parameters are trained
             ch10.exercises         the chapter's four exercises: mask against no mask
             ch10.demonstrations    a helpful assistant, which also obeys harmful requests
             ch10.reward            accuracy beside the labeller's noise ceiling
             ch10.rlhf              preference and KL as training goes on (the steps are in ppo.py)
             ch10.rloo              the same figures, without a value model
             ch10.grpo              the share of right answers, which a program checks
             ch10.one_word          PPO and GRPO learn to say one word: two curves, and the levels that theory predicts
             ch10.dpo               how far the policy moves for each beta
             ch10.best_of_n         the score as n grows, without training
             ch10.frontier          all five methods in one figure: preference against KL
             ch10.constitution      edit a principle, and see the model follow
             ch10.headlines         seven papers in miniature: what reproduces, and what does not
             ch10.taste             a published model bent to a taste by real pairs: yours, or a file's; a blind test
             ch10.reflex            a trail of notes, at once and stop by stop: accuracy by number of notes
             ch10.reflex_grpo       a reward for the last house alone: the model starts to write its stops out
             chat                   a conversation in the terminal with any of the models

Read chapter 10 in this order. Fine-tuning: classify, sft, lora, exercises. Learning from preferences: demonstrations,
comparisons, reward, bag_of_words, rollout, harness, ppo, rlhf, rloo, grpo, one_word, dpo, best_of_n, frontier, constitution,
distillation, headlines, taste. Last: reflex, reflex_grpo. `rollout` samples responses, `harness` trains policies, `assess`
compares two models, `figures` and `preference_figures` draw; these five, comparisons, bag_of_words, ppo and distillation have
no command. ch10/__init__.py lists the results.

The other folders:

    support/    plumbing: command lines, run folders, checkpoints, batches, readers of a user's files, figures, HTML
    world/      the project's own data, generated from a seed: facts, pages, tasks, and the simulated judge
    interactive/  parts of pages to play with, fed by a run folder: tokenizer, attention, sampler, mask, rewards, PPO
    main_job/   `python -m chapters`: its stages, their schedule, and the report page
    bench/      `python -m chapters.bench NAME`: whole models timed beside PyTorch and transformers
    workbook/   `python -m chapters.workbook`: functions of the project with their bodies taken out, and a grader
    notebooks   `python -m chapters.notebooks`: a Jupyter notebook for each lesson
    site/       `python -m chapters.site`: every lesson and kernel as a page, prose beside code

A file imports only what comes before it: world, support, chapters 1 to 10, chat, ch09.serve (which answers as chat does),
interactive, main_job, bench, workbook, notebooks and site.
"""

import sys
from importlib import import_module
from types import TracebackType


def _one_line_interrupt(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(str(error) or "interrupted", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # python -m chapters.…: Ctrl-C may come during the imports, before support/command.py catches it
    sys.excepthook = _one_line_interrupt

import_module("minigrad")  # refuses a foreign package named kernels before a lesson imports it

"""The stages between a file of pairs and a tuned model: drafts, a reward model, the best and the worst draft, and DPO.

Every stage saves its result, so a stopped command continues: drafts after the last batch, training after the last checkpoint.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.ch06_gpt import GPT
from chapters.ch07_train import LossFunction, TrainConfig, train
from chapters.ch08_sample import generate
from chapters.ch10.comparisons import Ranking
from chapters.ch10.dpo import DPOBatches, dpo_loss
from chapters.ch10.lora import add_lora
from chapters.ch10.reward import ComparisonBatches, ScalarModel, reward_loss
from chapters.ch10.rollout import score_targets
from chapters.ch10.taste.frozen import FrozenBelow, Trained
from chapters.ch10.taste.pairs import end_id, prompt_ids
from chapters.support.batches import Batches
from chapters.support.command import progress_bar
from chapters.support.json_files import read_object, write_result
from chapters.support.run_folder import Run, load_parameters
from chapters.world import Instruction

ROWS = 160  # answers that are written together
PASSES = 4  # the most passes over few pairs, which a model would else learn by heart


def write_answers(
    gpt: GPT,
    tokenizer: Any,
    tasks: Sequence[Instruction],
    k: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
    path: Path,
) -> list[list[list[int]]]:
    """k answers to each task, as token ids without the end token.  They are saved, batch after batch, at `path`."""
    answers: list[list[list[int]]] = read_object(path)["answers"] if path.exists() else []
    at_once = max(ROWS // k, 1)
    with progress_bar(len(tasks), len(answers), "instruction") as bar:
        for first in range(len(answers), len(tasks), at_once):
            batch = tasks[first : first + at_once]
            prompts = [prompt_ids(tokenizer, task) for task in batch for _ in range(k)]
            limit = min(max_new_tokens, gpt.config.context - 2 - max(map(len, prompts)))  # room for the end token and a PAD
            rng, stop = mg.Generator(seed + first), (end_id(tokenizer), tokenizer.eos_id)
            flat = generate(gpt, prompts, limit, temperature=temperature, stop_ids=stop, generator=rng)
            answers += [flat[i * k : (i + 1) * k] for i in range(len(batch))]
            write_result(path, {"answers": answers})
            bar.update(len(batch))
    return answers


def adapted(gpt: GPT, frozen: int, rank: int, seed: int) -> FrozenBelow:
    """The GPT with low-rank products in the blocks above the first `frozen`."""
    body = FrozenBelow(gpt, frozen)
    add_lora(body, rank, 2.0 * rank, generator=mg.Generator(seed))
    return body


def fit(
    model: nn.Module,
    body: FrozenBelow,
    rankings: Sequence[Ranking],
    batches: Callable[[], Batches],
    loss: LossFunction,
    config: TrainConfig,
    run: Run,
) -> None:
    """Train the model's trained parameters and save them in `run`; load them if they are there already."""
    trained, path = Trained(model), run / "trained.safetensors"
    if path.exists():
        return load_parameters(trained, mg.serialization.load(path)[0], path)
    body.read([row for ranking in rankings for row in ranking.rows], shown=True)
    steps = min(config.steps, max(PASSES * len(rankings) // config.batch_size, 1))
    train(trained, batches(), replace(config, steps=steps, resume=True), run, loss_fn=loss)
    mg.serialization.save(path, dict(trained.named_parameters()))
    (run / "checkpoint.safetensors").unlink()
    body.vectors.clear()


def learn_reward(body: FrozenBelow, rankings: Sequence[Ranking], config: TrainConfig, run: Run) -> ScalarModel:
    """A reward model, from a GPT with low-rank products and comparisons."""
    model = ScalarModel(body, mg.Generator(config.seed))
    fit(model, body, rankings, lambda: ComparisonBatches(rankings, config.batch_size, config.seed), reward_loss, config, run)
    return model


def learn_taste(body: FrozenBelow, rankings: Sequence[Ranking], config: TrainConfig, beta: float, run: Run) -> None:
    """Train the products of a GPT with DPO. The reference is the GPT itself, as long as its products are zero."""

    def preference_loss(model: Any, inputs: mg.Tensor, targets: mg.Tensor, reference: mg.Tensor) -> mg.Tensor:
        """`dpo.loss_with`, but only the positions of the answers pass through the vocabulary head."""
        log_probs = score_targets(model, inputs, targets.numpy(force=True))[0].sum(-1)  # (2P,)
        P = inputs.shape[0] // 2
        return dpo_loss(log_probs[:P], log_probs[P:], reference[:P], reference[P:], beta)

    fit(
        body,
        body,
        rankings,
        lambda: DPOBatches(rankings, body, config.batch_size, config.seed),
        preference_loss,
        config,
        run,
    )


def best_and_worst(
    prompts: Sequence[list[int]], answers: Sequence[Sequence[list[int]]], rewards: np.ndarray, end: int
) -> list[Ranking]:
    """The answers with the highest and the lowest of a prompt's rewards, (N, k). Prompts with equal rewards are left out."""
    rankings = []
    for prompt, texts, values in zip(prompts, answers, rewards, strict=True):
        if values.max() > values.min():
            rows = [[*prompt, *texts[i], end] for i in (int(values.argmax()), int(values.argmin()))]
            rankings.append(Ranking(rows, [(0, 1)], []))
    return rankings

"""Chapter 7, a second optimizer: Muon needs fewer steps than AdamW to reach the same loss.

    python -m chapters.ch07_muon              # trains a GPT twice, and draws runs/ch07_muon/figures/optimizers.svg

A gradient of a weight matrix has few large singular values and many small ones. A step along the gradient therefore moves the
matrix in few directions. Muon replaces the gradient U Σ Vᵀ (a singular value decomposition) by U Vᵀ, so that every direction
moves equally far. `orthogonal` computes it in one line. `minigrad.optim.Muon` approximates it with matrix products alone, which
are much cheaper than a decomposition.

Muon is for the matrices inside the blocks. AdamW still trains the tables, norms and biases. Look at the singular values that
the command prints, and at the figure: the same model, data and schedule, with either optimizer.

Source: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks" (kellerjordan.github.io/posts/muon).
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
from chapters.ch02_dataset import NextTokenBatches
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch07_train import Settings as TrainingSettings
from chapters.ch07_train import TrainConfig, next_token_loss, prepare, to_tensors, train
from chapters.support.command import OnDevice, above, at_least_one, command
from chapters.support.figures import new_figure, running_mean, save_figure
from chapters.support.run_folder import History, Run
from minigrad.optim.muon import orthogonalize


def orthogonal(gradient: np.ndarray) -> np.ndarray:
    """U Vᵀ, the matrix nearest to `gradient` whose singular values are all 1.

    >>> orthogonal(np.diag([100.0, 0.1])).round(3).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    U, _, Vt = np.linalg.svd(gradient, full_matrices=False)
    return U @ Vt


@dataclass
class Settings(OnDevice):
    """Train the same GPT with AdamW and with Muon, and draw both loss curves."""

    steps: int = 600  # optimizer steps of each run
    lr: float = 4e-3  # AdamW's peak learning rate, in both runs
    muon_lr: float = 0.02  # Muon's peak learning rate
    run: Path = Path("runs/ch07_muon")  # run folder for all output
    seed: int = 0  # random seed
    quick: bool = False  # 30 steps


def show_singular_values(model: GPT, batches: NextTokenBatches) -> None:
    """Print the singular values of one matrix's gradient, as it is and after Muon's iterations."""
    next_token_loss(model, *to_tensors(batches.batch(0), model)).backward()
    weight = model.h[0].mlp.c_fc.weight
    gradient = weight.grad.numpy(force=True)
    print(f"singular values of the gradient of a matrix {weight.shape}:")
    matrices = {
        "as it is": gradient,
        "3 iterations": orthogonalize([gradient], 3)[0],
        "5 iterations": orthogonalize([gradient])[0],
    }
    for name, matrix in {**matrices, "U Vᵀ": orthogonal(gradient)}.items():
        values = np.linalg.svd(matrix, compute_uv=False)
        few = ", ".join(f"{values[i]:.3g}" for i in (0, 9, len(values) // 2, -1))
        print(f"  {name:<14}{few}   (the largest, the tenth, the median, the smallest)")
    model.zero_grad()


def first_step_below(losses: list[float], level: float) -> int | None:
    """The first step, counted from 1, after which the running mean of the losses is at most `level`; None without one.

    >>> first_step_below([3.0, 1.0, 1.0], 2.95)
    2
    """
    return next((step for step, loss in enumerate(running_mean(losses), 1) if loss <= level), None)


def draw(histories: dict[str, History], path: Path) -> Path:
    """Draw the running means of the training losses over the steps."""
    figure, axes = new_figure()
    for (name, history), style in zip(histories.items(), ("--", "-"), strict=True):
        axes.plot(history.steps, running_mean(history.losses), style, label=name)
    axes.set(xlabel="step", ylabel="training loss (nats per token), running mean", title="Muon beside AdamW")
    axes.grid(alpha=0.3)
    axes.legend()
    return save_figure(figure, path)


def main(settings: Settings) -> None:
    at_least_one(settings, "steps")
    above(settings, 0, "lr", "muon_lr")
    steps = 30 if settings.quick else settings.steps
    size = 200_000 if settings.quick else 5_000_000
    run = Run(settings.run)
    tokenizer, tokens, _ = prepare(TrainingSettings(world_bytes=size, context=128, seed=settings.seed), run)
    shape = GPTConfig(vocab_size=tokenizer.vocab_size, context=128, init_std=0.05)
    histories: dict[str, History] = {}
    for name, muon_lr in {"AdamW": 0.0, "Muon": settings.muon_lr}.items():
        model = GPT(shape, mg.Generator(settings.seed))
        batches = NextTokenBatches(tokens, shape.context, 8, settings.seed)
        if not histories:
            show_singular_values(model, batches)
        config = TrainConfig(steps=steps, batch_size=8, lr=settings.lr, muon_lr=muon_lr, beta2=0.99, seed=settings.seed)
        print(f"training with {name}")
        histories[name] = train(model, batches, config, Run(settings.run / name.lower()))
    adamw_loss = running_mean(histories["AdamW"].losses)[-1]
    step = first_step_below(histories["Muon"].losses, adamw_loss)
    outcome = "Muon has not reached it" if step is None else f"Muon reached it after {step} steps"
    print(f"AdamW's loss after {steps} steps is {adamw_loss:.3f} nats per token; {outcome}")
    speeds = {name: history.tokens_per_second for name, history in histories.items()}
    if all(map(math.isfinite, speeds.values())):
        print(f"a step with Muon takes {speeds['AdamW'] / speeds['Muon']:.2f} times as long")
    print(f"figure: {draw(histories, run / 'figures' / 'optimizers.svg')}")


if __name__ == "__main__":
    command(main, Settings)

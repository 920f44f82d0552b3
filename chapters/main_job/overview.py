"""The main job in one picture, as in the README: pretraining, instruction tuning, and learning from preference.

python -m chapters.main_job.overview --out runs/main      # writes runs/main/figures/overview.svg
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chapters.ch10.constitution.page import conduct_bars
from chapters.support.command import command
from chapters.support.figures import new_figure, running_mean, save_figure
from chapters.support.json_files import read_object
from chapters.support.run_folder import History, Run, maker_of

# Okabe and Ito's colours, distinguishable without colour vision.
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#999999"
ACCEPTED = {"base": "base model", "sft_unmasked": "tuned,\nunmasked", "sft": "tuned,\nmasked"}


def draw_overview(out: Path) -> Path:
    """Draw a finished main job; returns the figure's path.  Raises OSError where a stage's result is missing."""

    def result(stage: str) -> Any:
        path = out / stage / "result.json"
        if not path.exists():
            maker = maker_of(out / "pretrain") or f"python -m chapters --out {out}"
            raise FileNotFoundError(f"overview: expected a finished main job, got no {path}; run {maker}")
        return read_object(path)

    models, tuned, constitutional = result("evaluate")["models"], result("rlhf"), result("constitution")["conduct"]
    figure, (loss, accepted, conduct) = new_figure(12, 3.4, ncols=3, width_ratios=[1, 0.8, 1.2])
    history = History.read(Run(out / "pretrain"))
    loss.plot(history.steps, running_mean(history.losses), color=BLUE, label="training, running mean")
    loss.plot(history.validation_steps, history.validation_losses, "o", color=ORANGE, label="validation")
    loss.set(title="Pretraining", xlabel="optimizer steps", ylabel="loss (nats per token)")
    loss.legend(frameon=False)

    shares = [100 * models[name]["test"]["all"] for name in ACCEPTED]
    bars = accepted.bar(list(ACCEPTED.values()), shares, color=[GREY, ORANGE, BLUE])
    accepted.bar_label(bars, fmt="%.0f %%")
    accepted.set(title="Instruction tuning: held-out instructions", ylabel="answers accepted (%)", ylim=(0, 108))

    rows = {"fine-tuned": tuned["before"], "after PPO": tuned, "after the constitution": constitutional["RL, default"]}
    conduct_bars(conduct, rows, whole=100)
    conduct.set(title="Preference tuning: harmful requests", xlabel="responses (%)", xlim=(0, 100))
    conduct.legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.4, -0.2), fontsize=8)
    for axes in (loss, accepted, conduct):
        axes.spines[["top", "right"]].set_visible(False)
    return save_figure(figure, out / "figures" / "overview.svg")


@dataclass
class Settings:
    """Draw a finished main job in one picture."""

    out: Path = Path("runs/main")  # folder of the main job


def main(settings: Settings) -> None:
    print(f"figure: {draw_overview(settings.out)}")


if __name__ == "__main__":
    command(main, Settings, writes="out")

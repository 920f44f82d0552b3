"""PPO iteration by iteration: reward, the judge's score and the distance from the SFT model (section 10.4)."""

from pathlib import Path
from typing import Any

from chapters.ch10.preference_figures import WATCHED
from chapters.interactive import Interactive
from chapters.interactive.training import readable
from chapters.support.generations import read_generations
from chapters.support.run_folder import Run, read_metrics

DIGITS = 5  # significant digits of a number on the page


def ppo_data(run: Path) -> dict[str, Any]:
    """The metrics of every iteration with their names, and the policy's answers if the run recorded them.

    Raises:
        ValueError: if the run did no PPO, or without the judge.
    """
    folder = Run(run / "rlhf")
    records = read_metrics(folder / "metrics.jsonl")
    if not records or not all({"iteration", "kl", "reward", "judge"} <= record.keys() for record in records):
        raise ValueError(f"{folder.folder}: expected the metrics of the main job's PPO, got others or none; run the main job")
    return {
        "quantities": {name: title for name, title in WATCHED.items() if name in records[0]},
        "iterations": [{name: float(f"{value:.{DIGITS}g}") for name, value in record.items()} for record in records],
        "answers": {record["step"]: readable(record["generations"]) for record in read_generations(folder)},
    }


PPO = Interactive(
    "ppo",
    "The path of PPO",
    "Each dot is one iteration of your run: how far the policy has moved from the SFT model, and how its responses score. "
    "Play it. Compare the reward, for which PPO trains the policy, with the score of the simulated judge, which PPO never "
    "sees. Do both keep rising? Which answers change, and when?",
    ppo_data,
)

"""Chapter 10, the headlines in miniature: the best-known results of the papers behind the second bend.

    python -m chapters.ch10.headlines                      # after python -m chapters, which makes the models it starts from
    python -m chapters.ch10.headlines --only wei gao       # some of the rows

How do you read a headline? Behind each headline stand a claim, a comparison and a judge. Each row's file says what the paper
measured, measures the same with our models, our little world and our simulated judge, and states its criterion beforehand.
Nothing is tuned on the held-out tasks, and a row that fails its criterion says so. A row shows a direction and never a size:
most of the papers' language models have over a thousand times as many parameters as ours, and our judge is a page of rules.

Look at runs/headlines/table.md and figures/headlines.svg. The run takes an estimated 40 minutes of processor time. It saves
the models that rows share, every result and every row as soon as it is finished, so the same command continues an
interrupted run.
"""

import json
import time
from dataclasses import asdict

from chapters.ch10.headlines.bai import bai
from chapters.ch10.headlines.christiano import christiano
from chapters.ch10.headlines.experiment import Experiment, Headline
from chapters.ch10.headlines.figure import draw, table
from chapters.ch10.headlines.gao import gao
from chapters.ch10.headlines.ouyang import ouyang
from chapters.ch10.headlines.settings import QUICK, Settings
from chapters.ch10.headlines.stiennon import stiennon
from chapters.ch10.headlines.taori import taori
from chapters.ch10.headlines.wei import wei
from chapters.support.command import at_least_one, command
from chapters.support.json_files import from_object, read_object, write_result
from minigrad.serialization import write_atomically

ROWS = {row.__name__: row for row in (wei, gao, taori, christiano, bai, stiennon, ouyang)}


def main(settings: Settings) -> None:
    unknown = [name for name in settings.only if name not in ROWS]
    if unknown or not settings.only:
        raise ValueError(f"headlines: expected rows among {', '.join(ROWS)}, got {', '.join(unknown) or 'none'}")
    at_least_one(settings, "members")
    experiment = Experiment(settings)
    # Rows of different settings do not belong in one table.
    experiment.run.must_match(command=settings, free=("only", "constituted"))
    experiment.run.describe(command=settings)
    rows = {name: finished_row(experiment, name) for name in settings.only}
    text = table(rows)
    write_atomically(experiment.run / "table.md", text.encode())
    print(f"\n{text}\nfigure: {draw(experiment.run / 'figures' / 'headlines.svg', rows)}")


def finished_row(experiment: Experiment, name: str) -> Headline:
    """A row of the table, from its file if an earlier run has finished it."""
    path = experiment.run / f"{name}.json"
    if path.exists():
        print(f"{name}: already finished")
    else:
        print((ROWS[name].__doc__ or name).splitlines()[0], flush=True)
        start = time.process_time()
        headline = ROWS[name](experiment)
        write_result(path, asdict(headline))
        with open(experiment.run / "timing.jsonl", "a") as clock:  # separate, because all other files are reproducible
            clock.write(json.dumps({"row": name, "processor seconds": round(time.process_time() - start)}) + "\n")
    return from_object(Headline, read_object(path), str(path))


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

"""Chapter 10, the headlines in miniature: the best-known results of the papers behind the second bend.

    python -m chapters.ch10.headlines                      # in world 0, with the models of python -m chapters
    python -m chapters.ch10.headlines --only wei gao       # some of the rows
    python -m chapters.ch10.headlines --published          # the results in five worlds that no choice had seen

How do you read a headline? Behind each headline stand a claim, a comparison and a judge. Each row's file says what the paper
measured, measures the same with our models, our little world and our simulated judge, and states its criterion beforehand.

A row is measured in several worlds, each with its own facts, models, tasks and seed. Its answer is "yes" only if the whole 95 %
t-interval over the worlds passes. Claim, criterion and settings are tuned on worlds 1 to 3, and fixed in registered.json before
the row is measured in the test worlds 100 to 104 (registration.py). One world, as on a laptop, has no interval, and the table
says so. A row shows a direction and never a size: most of the papers' language models have over a thousand times as many
parameters as ours, and our judge is a page of rules.

Look at runs/headlines/table.md and figures/headlines.svg. The run saves the models that rows share, every result and every row
as soon as it is finished, so the same command continues an interrupted run.
"""

from dataclasses import dataclass, field
from pathlib import Path

from chapters.ch10.headlines import settings as shared
from chapters.ch10.headlines.bai import BAI, BaiSettings
from chapters.ch10.headlines.christiano import CHRISTIANO, ChristianoSettings
from chapters.ch10.headlines.experiment import Headline, Measurement, Row
from chapters.ch10.headlines.figure import draw, draw_published, published_table, table
from chapters.ch10.headlines.gao import GAO, GaoSettings
from chapters.ch10.headlines.ouyang import OUYANG, OuyangSettings
from chapters.ch10.headlines.registration import (
    PUBLISHED,
    TEST_WORLDS,
    checked,
    digest,
    publish,
    published_results,
    register,
)
from chapters.ch10.headlines.schedule import Replicate, measure_side_by_side
from chapters.ch10.headlines.settings import Models
from chapters.ch10.headlines.stiennon import STIENNON, StiennonSettings
from chapters.ch10.headlines.taori import TAORI, TaoriSettings
from chapters.ch10.headlines.wei import WEI, WeiSettings
from chapters.support.command import OnDevice, command
from chapters.support.json_files import read_object
from chapters.support.run_folder import Run
from chapters.support.side_by_side import number_of_processes
from minigrad.serialization import write_atomically

ROWS: dict[str, Row] = {row.name: row for row in (WEI, GAO, TAORI, CHRISTIANO, BAI, STIENNON, OUYANG)}


@dataclass
class Settings(OnDevice):
    """Seven papers' headline results in miniature: one table, one figure."""

    worlds: tuple[int, ...] = (0,)  # worlds to measure in, each also the seed of its models; 100 to 104 test registered rows
    main: Path = Path("runs/main")  # folder of a main job; its models serve the world with its seed, others are trained here
    run: Path = Path("runs/headlines")  # run folder for all output
    only: tuple[str, ...] = tuple(ROWS)  # rows of the table
    published: bool = False  # print the published results in the test worlds, and measure nothing
    processes: int | None = None  # rows to measure at once; changes last digits (default: 2 if there are two threads)
    register: bool = False  # add the rows to registered.json, and measure nothing
    quick: bool = False  # few tasks and steps
    models: Models = field(default_factory=Models)  # models that rows share
    wei: WeiSettings = field(default_factory=lambda: WEI.settings)
    gao: GaoSettings = field(default_factory=lambda: GAO.settings)
    taori: TaoriSettings = field(default_factory=lambda: TAORI.settings)
    christiano: ChristianoSettings = field(default_factory=lambda: CHRISTIANO.settings)
    bai: BaiSettings = field(default_factory=lambda: BAI.settings)
    stiennon: StiennonSettings = field(default_factory=lambda: STIENNON.settings)
    ouyang: OuyangSettings = field(default_factory=lambda: OUYANG.settings)


QUICK = {"models": shared.QUICK, **{name: row.quick for name, row in ROWS.items()}}


def main(settings: Settings) -> None:
    unknown = [name for name in settings.only if name not in ROWS]
    if unknown or not settings.only:
        raise ValueError(f"headlines: expected rows among {', '.join(ROWS)}, got {', '.join(unknown) or 'none'}")
    if not settings.worlds or len(set(settings.worlds)) < len(settings.worlds) or min(settings.worlds) < 0:
        raise ValueError(f"headlines: expected different worlds from 0 on, got {settings.worlds}")
    rows = [ROWS[name] for name in settings.only]
    if settings.published:
        print(published_table(*published_results()))
    elif settings.register:
        for row in rows:
            print(f"{row.name}: {digest(register(row, getattr(settings, row.name), settings.models))}")
    else:
        try:
            measure(settings, rows)
        except KeyboardInterrupt:
            advice = f"finished models and rows are in {settings.run}; the same command continues"
            raise KeyboardInterrupt(f"stopped; {advice}") from None


def measure(settings: Settings, rows: list[Row]) -> None:
    """Measure the rows in all worlds; write the table and the figure, and publish the results of the test worlds."""
    digests = {row.name: checked(row, getattr(settings, row.name), settings.models, settings.worlds) for row in rows}
    processes = min(number_of_processes(settings.processes, settings.device), len(rows) * len(settings.worlds))
    run = Run(settings.run)
    # Rows of different settings do not belong in one table.
    run.must_match(command=settings, free=("only", "worlds", "main", "processes", "published", "register"))
    run.describe(command=settings)
    replicates = [replicate_of(settings, world, rows, digests) for world in settings.worlds]
    if processes > 1:
        measure_side_by_side(replicates, rows, processes)
    measurements: dict[str, dict[int, Measurement]] = {row.name: {} for row in rows}
    for replicate in replicates:
        experiment = replicate.experiment()
        for row in rows:
            measurements[row.name][replicate.world] = replicate.measure(row, experiment)
    headlines = [Headline(row, measurements[row.name]) for row in rows]
    text = table(headlines, digests)
    write_atomically(run / "table.md", text.encode())
    print(f"\n{text}\nfigure: {draw(run / 'figures' / 'headlines.svg', headlines)}")
    if set(settings.worlds) == set(TEST_WORLDS):
        for headline in headlines:
            publish(headline, str(digests[headline.row.name]))
        draw_published(PUBLISHED, *published_results())


def replicate_of(settings: Settings, world: int, rows: list[Row], digests: dict[str, str | None]) -> Replicate:
    tested = world in TEST_WORLDS
    return Replicate(
        world,
        settings.run / f"world{world}",
        settings.models,
        None if tested else main_job(settings.main, world),  # a main job may have other settings
        {row.name: getattr(settings, row.name) for row in rows},
        {row.name: digests[row.name] if tested else None for row in rows},
    )


def main_job(folder: Path, world: int) -> Path | None:
    """The folder of a main job if its seed is this world's number, else None."""
    path = folder / "job.json"
    return folder if path.exists() and read_object(path).get("seed") == world else None


if __name__ == "__main__":
    command(main, Settings, presets={"quick": QUICK})

"""The headline table: every row runs with tiny settings and continues an earlier run; its statistics and registration hold."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch10.assess import t_interval
from chapters.ch10.headlines import __main__, gao, registration
from chapters.ch10.headlines import settings as shared
from chapters.ch10.headlines.__main__ import QUICK, ROWS, Settings
from chapters.ch10.headlines.experiment import (
    Bound,
    Experiment,
    Headline,
    Measurement,
    Row,
    Summary,
    claim_and_criterion,
    task_wins,
)
from chapters.ch10.headlines.figure import bounds_of, draw, draw_published, published_table, shown, table
from chapters.main_job import first_bend, second_bend
from chapters.support.json_files import read_object
from minigrad import processor

ROOT = Path(__file__).parents[3]
RESULTS = (*(f"world1/{name}.json" for name in ROWS), "table.md", "figures/headlines.svg")


# ── the whole command ──


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "headlines"


@pytest.fixture
def settings(run_folder):
    return replace(Settings(worlds=(1,), main=Path("no main job"), run=run_folder), **QUICK)


def test_every_row_is_written_and_measured_only_once(settings, capsys):
    __main__.main(settings)
    capsys.readouterr()
    first = {name: (settings.run / name).read_bytes() for name in RESULTS}
    for name, row in ROWS.items():
        measured = json.loads(first[f"world1/{name}.json"])
        assert {bound.quantity for bound in row.criterion} <= set(measured["quantities"]), name
        assert all(np.isfinite(value) for value in measured["quantities"].values()), name
        assert row.paper in first["table.md"].decode(), name
    __main__.main(settings)
    out = capsys.readouterr().out
    assert "training" not in out and "in one world" in out
    assert {name: (settings.run / name).read_bytes() for name in RESULTS} == first


def test_two_processes_write_the_same_files(tmp_path, settings, capsys):
    folders = [tmp_path / name for name in ("one", "two")]
    threads = processor.get_num_threads()
    processor.set_num_threads(1)  # as in the workers: the number of threads fixes the order of sums
    try:
        for processes, folder in enumerate(folders, 1):
            capsys.readouterr()
            __main__.main(replace(settings, run=folder, only=("gao", "wei"), processes=processes))
    finally:
        processor.set_num_threads(threads)
    out = capsys.readouterr().out  # of this process alone
    assert "Up to 2 rows or models at the same time" in out and "world 1, gao: 0." in out and "training" not in out
    names = ["table.md", "world1/gao.json", "world1/wei.json", "world1/models/main_assistant/model.safetensors"]
    assert [(folders[0] / name).read_bytes() for name in names] == [(folders[1] / name).read_bytes() for name in names]


def test_the_command_itself_measures_in_two_processes(tmp_path):
    """Workers cannot import functions of a package's __main__."""
    arguments = "--quick --worlds 1 --main none --only gao wei --processes 2 --run".split()
    command = [sys.executable, "-m", "chapters.ch10.headlines", *arguments, str(tmp_path)]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert "world 1, wei: 0." in process.stdout and "| yes, in one world |" in process.stdout.replace("no,", "yes,")


def test_bad_rows_and_worlds_are_refused(settings):
    with pytest.raises(ValueError, match="headlines: expected rows among wei, gao, .*, got nobody"):
        __main__.main(replace(settings, only=("nobody",)))
    for worlds in ((), (1, 1), (-1,)):
        with pytest.raises(ValueError, match="headlines: expected different worlds from 0 on, got"):
            __main__.main(replace(settings, worlds=worlds))


def test_rows_of_different_settings_are_not_mixed(settings):
    __main__.main(replace(settings, only=("gao",)))
    with pytest.raises(OSError, match="holds a run with gao = .*, not "):
        __main__.main(replace(settings, only=("gao",), gao=replace(settings.gao, prompts=13)))


def test_the_main_jobs_models_serve_the_world_of_its_seed(tmp_path):
    (tmp_path / "job.json").write_text('{"seed": 6}')
    assert __main__.main_job(tmp_path, 6) == tmp_path and __main__.main_job(tmp_path, 0) is None
    experiment = Experiment(6, tmp_path / "world6", shared.QUICK, tmp_path)
    assert experiment.model_folder("main_policy") == tmp_path / "rlhf"
    assert experiment.model_folder("small_policy") == experiment.folder / "models" / "small_policy"


def test_other_worlds_get_models_by_the_main_jobs_recipe():
    models, plan, second = shared.Models(), first_bend.FULL, second_bend.FULL
    assert models.main == plan.model and models.pretrain_main == plan.pretrain
    assert (models.corpus_bytes, models.vocab_size) == (plan.corpus_bytes, plan.vocab_size)
    assert models.supervise == second.assistant and models.demonstrations == second.demonstrations
    assert models.rewarding == second.reward and models.compared == second.compared
    assert models.ppo == second.ppo and models.tasks == second.tasks


def test_the_sizes_keep_the_documented_ratios_and_see_equally_many_tokens():
    models, parameters, tokens = shared.Models(), dict[str, float](), set()
    for name in ("small", "main", "large"):
        shape, config = getattr(models, name), getattr(models, f"pretrain_{name}")
        parameters[name] = GPT(GPTConfig(1024, **shape)).num_parameters()
        tokens.add(config.steps * config.batch_size * shape["context"])
    small = parameters["small"]
    assert parameters["main"] / small >= 5 and parameters["large"] / small >= 24
    assert len(tokens) == 1


# ── the statistics ──


@dataclass
class CoinSettings:
    sides: int = 2


def coin(*values: float, criterion=(Bound("heads", above=0.5),)) -> Headline:
    row = Row(
        name="coin", paper="Nobody 1900", arxiv="0", claim="heads", criterion=criterion, minutes=1,
        settings=CoinSettings(), quick=CoinSettings(), measure=lambda experiment, settings: Measurement({"heads": 0.5}),
    )  # fmt: skip
    series = [{"line": [[0.0, value], [1.0, 2 * value]]} for value in values]
    return Headline(row, {i: Measurement({"heads": v}, s) for i, (v, s) in enumerate(zip(values, series, strict=True), 1)})


def test_the_whole_interval_over_worlds_has_to_pass():
    headline = coin(0.6, 0.7, 0.8)
    summary = headline.quantities["heads"]
    assert [summary.low, summary.high] == t_interval([0.6, 0.7, 0.8]) and summary.mean == pytest.approx(0.7)
    assert summary.low < 0.5 < summary.mean and headline.verdict == "no"  # the mean passes and the interval does not
    assert coin(0.68, 0.7, 0.72).verdict == "yes" and coin(0.3, 0.31).verdict == "no"
    assert coin(0.7).verdict == "yes, in one world" and coin(0.3).verdict == "no, in one world"


def test_every_bound_has_to_hold_on_its_side():
    both = Bound("heads", above=0.5), Bound("heads", below=0.75)
    assert coin(0.68, 0.7, 0.72, criterion=both).verdict == "yes"
    assert coin(0.78, 0.8, 0.82, criterion=both).verdict == "no"
    assert str(Bound("heads", above=0.5, below=1)) == "heads above 0.5 and below 1"


def test_the_published_figure_shows_every_bounded_quantity_of_the_published_results(tmp_path):
    """So does the copy in the repository, which is drawn whenever a result is published."""
    registrations, results = registration.all_registrations(), registration.stored(registration.RESULTS)
    drawn = draw_published(tmp_path / "published.svg", registrations, results).read_text(encoding="utf-8")
    committed = registration.RESULTS.with_name("published.svg").read_text(encoding="utf-8")
    for digest, result in results.items():
        quantities = {name: Summary(**summary) for name, summary in result["quantities"].items()}
        for name in bounds_of(registrations[digest]["criterion"], quantities):
            if quantities[name].low < quantities[name].high:
                assert shown(name, quantities[name]) in drawn and shown(name, quantities[name]) in committed, name


def test_the_figure_shows_the_mean_line_of_the_worlds(tmp_path):
    headline = coin(0.2, 0.4)
    assert headline.series == {"line": [(0.0, pytest.approx(0.3)), (1.0, pytest.approx(0.6))]}
    assert draw(tmp_path / "lines.svg", [headline]).stat().st_size > 1000
    bars = Headline(headline.row, {1: Measurement({"heads": 0.2, "weight (grams)": 7.5})})
    assert draw(tmp_path / "bars.svg", [bars]).stat().st_size > 1000


def test_the_table_prints_units_intervals_and_the_registration():
    text = table([coin(0.68, 0.7, 0.72)], {"coin": "abc"})
    assert "| heads above 0.5 | 70.0% [65.0%, 75.0%] | yes |" in text and "worlds 1, 2, 3, registered as abc:" in text
    bars = Headline(coin(0.2).row, {1: Measurement({"heads": 0.2, "weight (grams)": 7.5})})
    assert "world 1, not registered: heads 20.0%; weight (grams) 7.50." in table([bars], {})


def test_an_equal_score_is_half_a_win():
    assert task_wins(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])).tolist() == [0.0, 0.5, 1.0]


# ── registration ──


@pytest.fixture
def repository(tmp_path):
    """A git repository with one commit, and the path of its registered.json."""
    run = lambda *arguments: subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)  # noqa: E731
    run("init", "-q")
    (tmp_path / "code.py").write_text("1\n")
    run("add", "code.py")
    run("-c", "user.name=n", "-c", "user.email=e", "commit", "-q", "-m", "code")
    return tmp_path / "registered.json"


def test_a_registration_holds_claim_criterion_settings_and_commit(repository):
    row, models = coin(0.5).row, shared.QUICK
    first = registration.register(row, row.settings, models, repository)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=repository.parent, capture_output=True, text=True).stdout.strip()
    assert (
        first["commit"] == head and first["criterion"] == ["heads above 0.5"] and first["worlds"] == [100, 101, 102, 103, 104]
    )
    assert first["settings"]["coin"] == {"sides": 2} and first["settings"]["models"]["held_out"] == models.held_out
    assert "pretrain_main" in first["settings"]["models"] and "pretrain_small" not in first["settings"]["models"]
    with pytest.raises(ValueError, match="--register: coin is already registered like this, as version 1"):
        registration.register(row, row.settings, models, repository)
    second = registration.register(row, CoinSettings(3), models, repository)
    assert registration.registrations(row, repository) == [first, second] and second["version"] == 2
    assert registration.digest(first) != registration.digest(second)


def test_changed_code_and_folders_without_git_are_refused(repository, tmp_path_factory):
    row = coin(0.5).row
    (repository.parent / "code.py").write_text("2\n")
    with pytest.raises(ValueError, match="--register: expected committed code, got changes in code.py; commit them first"):
        registration.register(row, row.settings, shared.QUICK, repository)
    assert not repository.exists()
    with pytest.raises(ValueError, match="expected a git checkout of minigrad, which records the commit, got none"):
        registration.register(row, row.settings, shared.QUICK, tmp_path_factory.mktemp("bare") / "registered.json")


def test_test_worlds_take_registered_rows_with_registered_settings_alone(repository):
    row, models = coin(0.5).row, shared.QUICK
    checked = lambda settings, worlds: registration.checked(row, settings, models, worlds, repository)  # noqa: E731
    assert checked(row.settings, [1, 2, 3]) is None
    with pytest.raises(ValueError, match="headlines: world 101 is for tests of registered rows, and coin is not one"):
        checked(row.settings, [1, 101])
    registered = registration.register(row, row.settings, models, repository)
    assert checked(row.settings, [1, 101]) == registration.digest(registered)
    with pytest.raises(ValueError, match="world 104 is for tests with the registered settings, and coin.sides differs"):
        checked(CoinSettings(3), [104])
    stricter = replace(row, criterion=(Bound("heads", above=0.4),))
    with pytest.raises(ValueError, match="tests of the registered claim and criterion of coin, and ours differ"):
        registration.checked(stricter, row.settings, models, [104], repository)
    with pytest.raises(ValueError, match="and models.held_out differs"):
        registration.checked(row, row.settings, replace(models, held_out=13), [104], repository)


def test_a_registered_file_that_was_changed_is_refused_and_nothing_is_lost(repository, tmp_path):
    row, models = coin(0.5).row, shared.QUICK
    first = registration.digest(registration.register(row, row.settings, models, repository))
    experiment = Experiment(1, tmp_path / "world1", models)
    measured = experiment.measurement(row, row.settings, first)
    assert measured.registered == first
    repository.write_text(repository.read_text().replace("above 0.5", "above 0.4"))
    before = repository.read_bytes(), (tmp_path / "world1" / "coin.json").read_bytes()
    with pytest.raises(ValueError, match=r"registered\.json.*checksum.*restore it from the repository"):
        registration.checked(row, row.settings, models, [100], repository)
    with pytest.raises(ValueError, match=f"was measured under registration {first}, and registered.json has other; restore"):
        experiment.measurement(row, row.settings, "other")
    assert before == (repository.read_bytes(), (tmp_path / "world1" / "coin.json").read_bytes())


def test_a_result_without_its_registration_is_refused_with_a_sentence(repository):
    row, results = coin(0.5).row, repository.with_name("results.json")
    digest = registration.digest(registration.register(row, row.settings, shared.QUICK, repository))
    registration.publish(coin(0.3, 0.31), digest, results)
    assert list(registration.published_results(repository, results)[1]) == [digest]
    changed = json.loads(repository.read_text().replace("above 0.5", "above 0.4"))
    del changed["checksum"]
    repository.write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=rf"a registration for each result, .* lacks {digest} \(coin\); restore it"):
        registration.published_results(repository, results)


def test_published_results_of_all_versions_stand_beside_each_other(tmp_path):
    path, registered = tmp_path / "results.json", {name: claim_and_criterion(coin(0.5).row) for name in ("aaa", "bbb")}
    assert published_table({}, {}) == "no row has been tested yet"
    registration.publish(coin(0.3, 0.31), "aaa", path)
    registration.publish(coin(0.68, 0.7, 0.72), "bbb", path)
    text = published_table(registered, read_object(path))
    assert "no (aaa)" in text and "yes (bbb)" in text and "70.0% [65.0%, 75.0%]" in text
    before = path.read_bytes()
    with pytest.raises(ValueError, match="aaa already has another result in .*results.json; register a new version"):
        registration.publish(coin(0.9, 0.91), "aaa", path)
    assert path.read_bytes() == before


def test_every_published_result_has_its_registration():
    registered, results = registration.all_registrations(), read_object(registration.RESULTS)
    for digest, result in results.items():
        assert result["row"] in registered[digest]["settings"], "a result needs its registration"
        assert set(next(iter(result["quantities"].values()))["by_world"]) == set(map(str, registration.TEST_WORLDS))


# ── Gao's arithmetic ──


def test_the_best_point_is_chosen_on_the_other_half():
    run: list[Any] = [{"judge": [0.0, 0.0, 0.0, 0.0]}, {"judge": [5.0, 1.0, 5.0, 1.0]}, {"judge": [1.0, 2.0, 1.0, 2.0]}]
    # Tasks 0 and 2 are best at point 1, and tasks 1 and 3 at point 2, so each pair is measured at the other pair's point.
    assert gao.fall(run, "judge").tolist() == [0.0, -1.0, 0.0, -1.0]
    assert gao.gain(run, "judge") == 1.5


def test_a_fit_recovers_the_papers_curve():
    d = np.linspace(0.2, 4, 9)
    shapes: list[Any] = [lambda d: d, np.log]
    for shape in shapes:
        curve = [(0.0, 0.0), *zip(d, d * (1.5 - 0.25 * shape(d)), strict=True)]
        assert gao.fit_curve(curve, shape) == pytest.approx([1.5, 0.25], rel=1e-9)

"""The estimate of the main job's time."""

import pytest

import minigrad as mg
from chapters.main_job import first_bend, schedule
from chapters.main_job.estimate import COSTS, SECOND_THREAD, TimeEstimate, seconds_of_a_step
from chapters.main_job.schedule import NEEDS, STAGES
from tests.tiny_job import SECOND, TINY

TOY_COSTS = {"a": 10, "b": 4, "c": 3, "d": 5, "alone": 2}
TOY_NEEDS = {"a": (), "b": (), "c": ("b",), "d": ("a", "c")}  # "alone" shares the processor with no other stage


def toy(step_seconds=1.0, processes=2, resumed=frozenset()):
    return TimeEstimate(TOY_COSTS, step_seconds, TOY_NEEDS, processes, resumed)


@pytest.mark.parametrize("form", ["full", "quick"])
def test_every_stage_has_a_cost(form):
    assert COSTS[form].keys() == STAGES.keys()
    alone, side_by_side = (TimeEstimate(COSTS[form], 0.1, NEEDS, processes).seconds_left(set(STAGES)) for processes in (1, 2))
    assert 60 < side_by_side < alone < 2 * side_by_side


def test_two_processes_overlap_stages_that_do_not_need_each_other():
    everything = set(TOY_COSTS)
    assert toy(0.5).seconds_left(everything) == 0.5 * (10 + 5 + 2)  # b and c run beside a
    assert toy(0.5, processes=1).seconds_left(everything) == pytest.approx(0.5 * ((10 + 4 + 3 + 5) / SECOND_THREAD + 2))
    assert toy().seconds_left({"a", "c", "d"}, {"a": 9.0}) == 3 + 5  # one second of a is left
    independent = TimeEstimate(TOY_COSTS, 1.0, dict.fromkeys("abc", ()), 2)
    assert independent.seconds_left({"a", "b", "c"}, {"b": 1.0, "c": 1.0}) == 2 + 10  # a waits until c has ended
    assert toy().seconds_left({"d"}, {"d": 100.0}) == toy().seconds_left(set()) == 0


def test_stages_that_have_ended_correct_the_estimate():
    estimate = toy()
    estimate.record("a", 20.0)  # twice as long as estimated
    assert estimate.seconds_left({"b"}) == 8.0
    estimate.record("b", 1.0)  # 14 seconds were estimated so far, and 21 were measured
    assert estimate.seconds_left({"b"}) == pytest.approx(6.0)


def test_a_resumed_stage_corrects_nothing():
    estimate = toy(resumed={"a"})
    estimate.record("a", 0.5)  # the rest of a stage
    assert estimate.seconds_left({"b"}) == 4.0


def test_a_step_is_measured_and_leaves_the_jobs_random_numbers_alone(tmp_path):
    before = mg.default_generator.get_state()
    job = first_bend.Job(tmp_path, 0, TINY, SECOND)
    assert 0 < seconds_of_a_step(job, measure_for=0.0) < 10
    assert mg.default_generator.get_state() == before and not list(tmp_path.iterdir())


def test_the_critics_files_do_not_begin_the_constitution(tmp_path):
    job = first_bend.Job(tmp_path, 0, TINY, SECOND)
    (tmp_path / "critic").mkdir()
    (tmp_path / "constitution" / "critic").mkdir(parents=True)
    assert schedule.resumed_stages(job) == {"critic"}
    (tmp_path / "constitution" / "default").mkdir()
    assert schedule.resumed_stages(job) == {"critic", "constitution"}


def test_the_stages_report_the_time_that_is_left(tmp_path, monkeypatch, capsys):
    """Stages of no work, on a clock that advances seven seconds whenever it is read."""
    readings = iter(range(0, 10**6, 7))
    monkeypatch.setattr(schedule.time, "perf_counter", lambda: next(readings))
    monkeypatch.setattr(schedule, "STAGES", {name: lambda job: {} for name in TOY_COSTS})
    monkeypatch.setattr(schedule, "NEEDS", {})
    for stage in schedule.STAGES.values():
        stage.__doc__ = "Do nothing."
    job = first_bend.Job(tmp_path, 0, TINY, SECOND)
    (tmp_path / "b_model").mkdir()
    assert schedule.resumed_stages(job) == {"b"}
    schedule.run_stages(job, 1, TimeEstimate(TOY_COSTS, 60.0, {}, 1, schedule.resumed_stages(job)))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.endswith("left")]
    # a took 21 s instead of 600, so 14 steps take less than a minute.
    assert lines == ["less than a minute left"] * 4 and schedule.missing_stages(job) == set()

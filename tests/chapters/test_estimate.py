"""The estimate of the main job's time."""

import pytest

from chapters.main_job import estimate, first_bend
from chapters.main_job.estimate import COSTS, Clock, seconds_of_a_step
from chapters.main_job.schedule import NEEDS, STAGES
from tests.tiny_job import SECOND, TINY


def test_every_stage_has_a_cost():
    assert COSTS.keys() == STAGES.keys()


@pytest.fixture
def costs(monkeypatch):
    monkeypatch.setattr(estimate, "COSTS", {"a": (10, 1), "b": (4, 1), "c": (3, 1), "d": (5, 1), "alone": (2, 1)})
    return {"a": (), "b": (), "c": ("b",), "d": ("a", "c")}  # what each needs; "alone" shares the processor with none


def test_two_processes_overlap_stages_that_do_not_need_each_other(costs):
    everything = set(estimate.COSTS)
    assert Clock(0.5, False, costs, processes=1).left(everything) == 0.5 * (10 + 4 + 3 + 5 + 2)
    assert Clock(0.5, False, costs, processes=2).left(everything) == 0.5 * (10 + 5 + 2)  # b and c run beside a
    assert Clock(0.5, True, costs, processes=1).left(everything) == 0.5 * 5
    assert Clock(1.0, False, costs, processes=2).left({"a", "c", "d"}, {"a": 9.0}) == 3 + 5  # one second of a is left
    assert Clock(1.0, False, costs, processes=2).left({"d"}, {"d": 100.0}) == 0
    assert Clock(1.0, False, costs, processes=2).left(set()) == 0


def test_stages_that_have_ended_correct_the_estimate(costs):
    clock = Clock(1.0, False, costs, processes=1)
    clock.ended("a", 20.0)  # twice as long as expected
    assert clock.left({"b"}) == 8.0
    clock.ended("b", 1.0)  # 14 seconds were expected so far, and 21 were taken
    assert clock.left({"b"}) == pytest.approx(6.0)


def test_a_step_is_measured_and_leaves_the_jobs_numbers_alone(tmp_path):
    import minigrad as mg

    before = mg.default_generator.get_state()
    job = first_bend.Job(tmp_path, 0, TINY, SECOND)
    assert 0 < seconds_of_a_step(job, measure_for=0.0) < 10
    assert mg.default_generator.get_state() == before and not list(tmp_path.iterdir())


def test_the_real_job_has_no_cycle_of_needs():
    assert Clock(0.1, False, NEEDS, processes=2).left(set(STAGES)) < Clock(0.1, False, NEEDS, processes=1).left(set(STAGES))

"""Wei et al.'s row: the likeliest option, shares by part of the grid, and a whole measurement with tiny settings."""

from dataclasses import replace

import numpy as np
import pytest

from chapters.ch06_gpt import save_model
from chapters.ch10.headlines import settings, wei
from chapters.ch10.headlines.experiment import Experiment
from chapters.ch10.headlines.wei import ATTRIBUTES, COMBINATIONS, FREE, OPTION, QUICK, WEI
from chapters.ch10.sft import task_prompt
from chapters.support.run_folder import Run
from chapters.world import World, grid

WORLD = World(1)
EVERYTHING = [*wei.product(grid.ATTRIBUTES, grid.FORMS)]


@pytest.fixture
def experiment(tmp_path, make_gpt, assistant_tokenizer):
    """World 1 with an untrained base model."""
    folder = tmp_path / "models" / "main"
    save_model(Run(folder), make_gpt(), assistant_tokenizer)
    (folder / "done").touch()
    return Experiment(1, tmp_path, settings.QUICK)


@pytest.mark.parametrize(("advantage", "chosen"), [(1.0, 1.0), (0.0, 0.0), (-1.0, 0.0)])
def test_an_option_is_chosen_only_if_it_is_likelier_than_all_others(
    advantage, chosen, make_gpt, assistant_tokenizer, monkeypatch
):
    tests = grid.draw_tasks(WORLD, EVERYTHING, "test", 12, 0)
    right = [assistant_tokenizer.encode(task.output) for task in tests]

    def log_probs(model, rollouts):
        return np.array([[-9.0, advantage if response in right else 0.0] for response in rollouts.responses])

    monkeypatch.setattr(wei, "log_probs_of", log_probs)
    assert wei.choose(make_gpt(), assistant_tokenizer, tests, task_prompt) == [chosen] * 12


def test_the_base_model_gets_the_better_of_two_prompts(experiment, monkeypatch):
    by_prompt = {wei.bare_prompt: ([1.0, 0.0], [0.0, 0.0]), wei.task_prompt: ([0.0, 0.0], [1.0, 1.0])}

    def results_of(model, tokenizer, tests, prompt):
        return {name: dict(zip((OPTION, FREE), by_prompt[prompt], strict=True)) for name in tests}

    monkeypatch.setattr(wei, "results_of", results_of)
    division = grid.divisions(1, 3, 12)[0]
    results = wei.results_after(experiment, QUICK.training, division, 0, {ATTRIBUTES: [], COMBINATIONS: []})
    assert results == {name: {OPTION: [1.0, 0.0], FREE: [1.0, 1.0]} for name in (ATTRIBUTES, COMBINATIONS)}


def test_shares_by_attribute_by_form_and_by_guessing():
    names = [("pet", "question"), ("pet", "true or false"), ("sum", "question")]
    tasks = [grid.draw_tasks(WORLD, [name], "test", 1, 0)[0] for name in names]
    tests = [{ATTRIBUTES: tasks[:2]}, {ATTRIBUTES: tasks[2:]}]
    results = [{ATTRIBUTES: {OPTION: [1.0, 0.0]}}, {ATTRIBUTES: {OPTION: [0.0]}}]
    assert wei.joined(results, ATTRIBUTES, OPTION) == [1.0, 0.0, 0.0]
    assert wei.by_part(tests, results, 0) == {"pet": 0.5, "sum": 0.0}
    assert wei.by_part(tests, results, 1) == {"question": 0.5, "true or false": 0.0}
    assert wei.guessing(tests, ATTRIBUTES) == pytest.approx((1 / 4 + 1 / 2 + 1 / 4) / 3)


def test_a_measurement_with_tiny_settings_continues_where_it_stopped(experiment, monkeypatch):
    measurement = WEI.measure(experiment, QUICK)
    quantities = measurement.quantities
    assert {bound.quantity for bound in WEI.criterion} <= set(quantities)
    assert all(-1 <= value <= 1 for value in quantities.values())
    base, most = quantities["right options, base model"], quantities["right options, most attributes"]
    assert quantities["rise over the base model"] == pytest.approx(most - base)
    assert [count for count, _ in measurement.series["right option likeliest"]] == [0, *QUICK.attributes]
    assert list(measurement.details["by attribute"]) == list(measurement.details["by form"]) == ["0", "1", "6"]
    monkeypatch.setattr(wei, "tune_with_rehearsal", None)  # everything is in found/ already
    assert WEI.measure(experiment, QUICK) == measurement


def test_tuning_sees_neither_unseen_attributes_nor_unseen_combinations(experiment, monkeypatch):
    seen = []
    monkeypatch.setattr(wei, "tune_with_rehearsal", lambda model, tokenizer, world, tasks, config, run: seen.extend(tasks))
    monkeypatch.setattr(wei, "results_of", lambda *arguments: {})
    division = grid.divisions(1, 3, 12)[0]
    config = replace(QUICK.training, steps=40, batch_size=8)
    wei.results_after(experiment, config, division, 3, {})
    combinations = {tuple(task.family.split("/")) for task in seen}
    assert len(seen) == 320 and combinations == set(division.training(3))
    assert not {attribute for attribute, _ in combinations} & set(division.unseen_attributes)
    assert not combinations & set(division.unseen_combinations)

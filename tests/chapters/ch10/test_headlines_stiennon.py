"""Stiennon's row: its arithmetic on small examples, and the whole row with tiny settings on untrained base models."""

from types import SimpleNamespace

import numpy as np
import pytest

from chapters.ch06_gpt import GPT, GPTConfig, load_model
from chapters.ch10.assess import sample_responses
from chapters.ch10.headlines.settings import Models
from chapters.ch10.headlines.stiennon import QUICK, STIENNON, Summaries, measure, share_at_equal_length
from chapters.support.run_folder import Run
from chapters.world.summaries import RAMBLINGS, person_of, references, summary_tasks


def test_the_share_at_equal_length_takes_away_what_length_alone_explains():
    ratios = np.log(np.repeat([0.5, 1.0, 2.0], 100))
    longer_wins = np.repeat([0.0, 0.5, 1.0], 100)  # length explains every comparison
    assert share_at_equal_length(longer_wins, ratios) == pytest.approx(0.5, abs=1e-6)
    often = np.concatenate([np.tile([1.0, 1.0, 1.0, 0.0], 25)] * 3)  # three of four, whatever the length
    assert share_at_equal_length(often, ratios) == pytest.approx(0.75, abs=1e-3)
    always_longer = np.full(100, np.log(1.2))  # the ratio never varies, so length cannot be told from quality
    assert 0.5 < share_at_equal_length(np.ones(100), always_longer) < 1


def test_half_a_win_counts_as_half_of_each_outcome():
    ratios = np.log(np.array([0.5, 0.8, 1.25, 2.0] * 20))
    assert share_at_equal_length(np.full(80, 0.5), ratios) == pytest.approx(0.5)


def test_summaries_are_compared_by_the_labeller_without_noise():
    tasks = summary_tasks("test", 40, 1)
    good, written = Summaries.of(tasks, [task.output for task in tasks]), Summaries.of(tasks, references(tasks, 1))
    equal = float((written.scores == good.scores).mean())
    assert good.preferred_to(written) == pytest.approx(1 - equal / 2) and written.preferred_to(good) == equal / 2
    assert good.preferred_to(good) == good.preferred_with_length_regressed_out(good) == 0.5
    described = good.described(tasks)
    assert described.pop("words") == 12 and described == {"coverage": 1, "accuracy": 1, "coherence": 1, "score": 8}


def test_only_summaries_of_the_same_length_are_compared_where_length_is_controlled():
    tasks = summary_tasks("test", 3, 1)
    good = Summaries.of(tasks, [task.output for task in tasks])
    ramblings = [f"{task.output} {RAMBLINGS[0]}" for task in tasks[:2]]
    mixed = Summaries.of(tasks, [*ramblings, tasks[2].output.replace(person_of(tasks[2]).town, "Nowhere")])
    assert good.preferred_to(mixed) == good.preferred_at_the_same_length(mixed) == 1
    assert mixed.preferred_at_the_same_length(good) == 0
    rambling = Summaries.of(tasks[:2], ramblings)
    assert Summaries.of(tasks[:2], good.texts[:2]).preferred_at_the_same_length(rambling) == 0.5


def test_the_supervised_model_has_at_least_ten_times_the_parameters():
    sizes = [GPT(GPTConfig(1024, **shape)).num_parameters() for shape in (STIENNON.settings.shape, Models().large)]
    assert sizes[1] >= 10 * sizes[0]


@pytest.fixture
def experiment(make_gpt, assistant_tokenizer, tmp_path):
    """One world with untrained base models."""

    def base(size):
        return make_gpt(context=384), assistant_tokenizer

    def pretrained(name, shape, recipe):
        return make_gpt(d_model=shape["d_model"], context=384), assistant_tokenizer

    def trained(name, train_into, load=load_model):
        folder = tmp_path / name
        if not folder.exists():
            train_into(Run(folder))
        return load(folder)

    def responses(model, tokenizer, tasks):
        return sample_responses(model, tokenizer, tasks, 1).texts(tokenizer)

    return SimpleNamespace(seed=1, base=base, pretrained=pretrained, trained=trained, responses=responses)


def test_the_row_measures_every_quantity_of_its_criterion(experiment):
    measurement = measure(experiment, QUICK)
    assert {bound.quantity for bound in STIENNON.criterion} <= measurement.quantities.keys()
    assert all(np.isfinite(value) for value in measurement.quantities.values())
    sizes = measurement.details["parameters"]
    assert sizes["the larger model"] > sizes["the policy"] == sizes["the supervised model of the policy's size"]
    authors = {*sizes, "the references"}
    assert set(measurement.details["criteria"]) == authors
    assert set(measurement.details["examples"][0]) == {*authors, "paragraph"}

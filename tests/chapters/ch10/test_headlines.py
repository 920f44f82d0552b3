"""The headline table: every row runs on far too little of everything, goes on where it was stopped, and its arithmetic
and its sieves do what they say."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from chapters.ch06_gpt import save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import demonstrations, reward
from chapters.ch10.headlines import __main__, bai, christiano, gao, taori, wei
from chapters.ch10.headlines.__main__ import QUICK, ROWS, Settings
from chapters.ch10.headlines.experiment import Headline, Stand, interval, wins
from chapters.support.run_folder import Run
from chapters.world.families import FAMILIES
from chapters.world.requests import mixed_tasks

FEW = TrainConfig(steps=2, batch_size=4, lr=1e-3, warmup_steps=1)
RESULTS = (*(f"{name}.json" for name in ROWS), "table.md", "figures/headlines.png")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def settings(runs, make_gpt, assistant_tokenizer, capsys):
    """Quick settings beside an untrained base, its assistant and a reward model."""
    if not (runs / "base").exists():
        save_model(Run(runs / "base"), make_gpt(), assistant_tokenizer)
        demonstrations.main(demonstrations.Settings(
            base=runs / "base", run=runs / "assistant", examples=40, held_out=8, training=FEW))  # fmt: skip
        reward.main(reward.Settings(
            sft=runs / "assistant", run=runs / "reward", prompts=6, k=3, held_out=6, training=FEW))  # fmt: skip
        capsys.readouterr()
    found = Settings(base=runs / "base", sft=runs / "assistant", reward=runs / "reward", run=runs / "headlines")
    return replace(found, **QUICK)


def test_every_row_comes_out_and_is_not_trained_twice(settings, capsys):
    __main__.main(settings)
    capsys.readouterr()
    first = {name: (settings.run / name).read_bytes() for name in RESULTS}
    for name in ROWS:
        row = json.loads(first[f"{name}.json"])
        low, high = row["interval"]
        assert low <= row["ours"] <= high, name
        assert row["claim"] and row["theirs"] and row["seeds"] == [0] and row["reproduced"] in (True, False), name
        assert row["paper"] in first["table.md"].decode(), name
    __main__.main(settings)
    out = capsys.readouterr().out
    assert out.count("found before, kept") == len(ROWS) and "training" not in out
    assert {name: (settings.run / name).read_bytes() for name in RESULTS} == first


def test_the_same_seed_gives_the_same_bytes_and_only_some_rows_where_asked(settings, runs):
    __main__.main(replace(settings, run=runs / "again", only=("gao", "taori")))
    for name in ("gao.json", "taori.json"):
        assert (runs / "again" / name).read_bytes() == (settings.run / name).read_bytes(), name
    assert not (runs / "again" / "wei.json").exists()


def test_a_row_that_does_not_exist_is_refused(settings):
    with pytest.raises(ValueError, match="no row named nobody; the rows are wei"):
        __main__.main(replace(settings, only=("nobody",)))


def test_rows_of_other_settings_are_not_mixed_in(settings):
    __main__.main(replace(settings, only=("wei",)))
    with pytest.raises(OSError, match="holds a run with unseen = 6, not 7"):
        __main__.main(replace(settings, only=("wei",), unseen=7))


def test_a_constitution_of_one_seed_is_not_passed_off_for_several(settings, tmp_path):
    several = replace(settings, constituted=tmp_path, constitution_seeds=(0, 1))
    with pytest.raises(ValueError, match="one seed"):
        bai.bai(Stand(several))


def test_the_full_settings_keep_the_promised_ratios():
    full, parameters = Settings(), {}
    for name in ("small", "medium", "large"):
        shape = getattr(full, name)
        C, L = shape["d_model"], shape["n_layer"]
        parameters[name] = L * (12 * C * C + 13 * C) + (1024 + shape["context"] + 2) * C
    tiny = 4 * (12 * 128**2 + 13 * 128) + (1024 + 128 + 2) * 128
    assert parameters["large"] / parameters["small"] >= 50
    assert tiny / parameters["small"] >= 10 and tiny / parameters["medium"] >= 5
    samples = full.online.iterations * full.online.prompts
    assert sum(full.online_rounds.values()) * full.online.k / samples < 0.01


# ── the rows' own arithmetic ──


def test_a_row_holds_plain_numbers():
    row = Headline("", "", "", "", "", np.float32(1), [0.0, 1.0], 0.5, "share", [0], np.float64(1) > 0, "")
    assert json.dumps([row.ours, row.reproduced]) == "[1.0, true]"


def test_wins():
    assert wins([1.0, 2.0, 3.0], [2.0, 2.0, 2.0]).tolist() == [0.0, 0.5, 1.0]


def test_an_interval_covers_seeds_as_well_as_tasks():
    tasks = np.linspace(0, 1, 400)
    low, high = interval([tasks, tasks])  # two seeds that agree: what is left is chance in the tasks
    assert 0.45 < low < 0.5 < high < 0.55
    low, high = interval([tasks, tasks + 1])  # two that do not
    assert low < 0.55 and high > 1.45
    low, high = interval(np.zeros((2, 200)))  # what two seeds never saw may yet happen
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(3.84 / 403.84, rel=1e-2)


def test_only_differences_between_models_are_asked_about(settings, monkeypatch):
    online = christiano.OnlineReward(Stand(settings), 0, k=2)
    assert list(online.disputed(None, 3)) == [0, 1, 2]
    online.models = ["one", "another"]
    # Of three prompts' two responses the models agree on the first but for a constant, and differ most on the last.
    said = {"one": [0.0, 1, 0, 1, 0, 1], "another": [5.0, 6, 0, 2, 4, 0]}
    monkeypatch.setattr(christiano, "reward_scores", lambda model, rows: np.array(said[model]))
    assert list(online.disputed(SimpleNamespace(rows=None), 2)) == [2, 1]


def test_every_option_is_a_good_answer_with_another_value(world):
    for task in world.instructions("test_families", 60, 5):
        options = [wei.answer(task, option) for option in wei.OPTIONS[task.family](task)]
        accepted = [option for option in options if world.accepts(task, option)]
        assert task.output in accepted and len(accepted) == 1 and len(set(options)) == len(options) >= 2
    assert set(wei.OPTIONS) == {name for name, family in FAMILIES.items() if not family.trained}


def test_the_likeliest_option_is_chosen(world, make_gpt, assistant_tokenizer, monkeypatch):
    tests = world.instructions("test_families", 9, 5)
    good = [assistant_tokenizer.encode(task.output) for task in tests]

    def log_probs(model, rollouts):
        return np.array([[float(response in good)] for response in rollouts.responses])

    monkeypatch.setattr(wei, "log_probs_of", log_probs)
    assert wei.choose(world, make_gpt(), assistant_tokenizer, tests, wei.framed) == [1.0] * 9


def test_the_sieve_keeps_what_is_whole_and_new_and_not_held_out(world):
    shown, hidden = world.facts.train["person"][0], world.facts.test["person"][0]
    texts = [
        f"Where does {shown} live?", f"Where does {shown} live?", f"Where does {hidden} live?", "Where does", "x?",
        "Count the things in the list.\n\n### Input:\nThe list is plum, dog.", "Count ### the things.",
        "Count the things in the list.\n\n### Input:\nThe list is plum, rake.",  # the test's side, by its checksum
        f"Where does {shown} liveth?",
    ]  # fmt: skip
    kept = taori.sieve(texts, world.instructions("train", 100, 2), world)
    assert [(task.instruction, task.input) for task in kept] == [
        (f"Where does {shown} live?", ""), ("Count the things in the list.", "The list is plum, dog.")]  # fmt: skip


def test_the_sieve_lets_nothing_of_the_test_through_and_nearly_all_of_training(world):
    def passes(task):
        return not taori.asks_what_is_held_out(world.facts, f"{task.instruction} {task.input}")

    leaked = [task.instruction for task in mixed_tasks(world, "test", 1500, 1) if passes(task)]
    assert leaked == []
    kept = [task for task in mixed_tasks(world, "train", 1500, 1) if passes(task)]
    families = {"sum", "price", "compare", "rewrite", "reverse", "cheat"}
    assert len(kept) > 1300 and {task.family for task in kept} >= families


def test_the_best_point_is_chosen_on_the_other_half():
    run = [{"judge": [0.0, 0.0, 0.0, 0.0]}, {"judge": [5.0, 1.0, 5.0, 1.0]}, {"judge": [1.0, 2.0, 1.0, 2.0]}]
    # The even tasks are best at point 1 and the odd ones at point 2: each is measured at the other's.
    assert gao.fall(run, "judge").tolist() == [0.0, -1.0, 0.0, -1.0]


def test_the_papers_curve_is_found_again():
    d = np.linspace(0.2, 4, 9)
    for shape in (lambda d: d, np.log):
        curve = [(0.0, 0.0), *zip(d, d * (1.5 - 0.25 * shape(d)), strict=True)]
        np.testing.assert_allclose(gao.fitted(curve, shape), [1.5, 0.25], rtol=1e-9)


def test_the_learned_reward_sees_no_more_than_it_asked_for(settings, world):
    stand = Stand(settings)
    online = christiano.OnlineReward(stand, 0, k=2)
    model, tokenizer = stand.medium_assistant()
    tasks = [task for task in stand.tasks[:4] for _ in range(2)]
    rollouts = christiano.sample_responses(model, tokenizer, tasks, 0, 8)
    for _ in range(3):
        scores = online(tasks, rollouts)
    assert online.compared == 2 * sum(settings.online_rounds.values()) and scores.shape == (8,)
    assert len(online.rankings) <= sum(settings.online_rounds.values())


def test_the_ratio_of_two_gains_has_an_interval_around_it():
    theirs = np.linspace(0.5, 1.5, 200).reshape(2, 100)
    ratio, ends = christiano.ratio_of_means(0.9 * theirs, theirs)
    np.testing.assert_allclose([ratio, *ends], 0.9)
    ratio, (low, high) = christiano.ratio_of_means(0.9 * theirs[:, ::-1], theirs)
    assert low < 0.9 < high and ratio == pytest.approx(0.9)
    assert christiano.ratio_of_means(theirs, 0 * theirs) == (0.0, [0.0, 0.0])

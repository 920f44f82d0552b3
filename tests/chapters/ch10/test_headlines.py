"""The headline table: every row runs with tiny settings and continues an earlier run; its arithmetic and sieves work."""

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from chapters.ch06_gpt import save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import demonstrations
from chapters.ch10.headlines import __main__, bai, christiano, gao, taori, wei
from chapters.ch10.headlines.__main__ import ROWS
from chapters.ch10.headlines.experiment import Experiment, Headline, interval, task_wins
from chapters.ch10.headlines.settings import QUICK, Settings
from chapters.ch10.sft import task_prompt
from chapters.support.run_folder import Run
from chapters.world.families import FAMILIES
from chapters.world.requests import mixed_tasks

FEW = TrainConfig(steps=2, batch_size=4, lr=1e-3, warmup_steps=1)
RESULTS = (*(f"{name}.json" for name in ROWS), "table.md", "figures/headlines.svg")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def settings(runs, make_gpt, assistant_tokenizer, capsys):
    """Quick settings beside an untrained base and its assistant."""
    if not (runs / "base").exists():
        save_model(Run(runs / "base"), make_gpt(), assistant_tokenizer)
        few: Any = dict(training=FEW)
        demonstrations.main(demonstrations.Settings(base=runs / "base", run=runs / "assistant", examples=40, held_out=8, **few))
        capsys.readouterr()
    settings = Settings(base=runs / "base", sft=runs / "assistant", run=runs / "headlines")
    return replace(settings, **QUICK)


def test_every_row_is_written_and_trained_only_once(settings, capsys):
    __main__.main(settings)
    capsys.readouterr()
    first = {name: (settings.run / name).read_bytes() for name in RESULTS}
    for name in ROWS:
        row = json.loads(first[f"{name}.json"])
        low, high = row["interval"]
        assert low <= row["ours"] <= high, name
        assert row["claim"] and row["theirs"] and row["seeds"] == [0] and row["reproduced"] in (True, False), name
        assert row["paper"] in first["table.md"].decode(), name
    ensemble = json.loads(first["gao.json"])["details"]["ensemble"]
    gains = ensemble["gain by best of n"]
    assert ensemble["members"] == 2 and list(gains) == ["proxy", "each alone", "mean", "worst case", "difference"]
    assert gains["difference"][0] == pytest.approx(gains["worst case"][0] - gains["each alone"][0])
    assert list(ensemble["gain by PPO"]) == ["each alone", "worst case", "difference"]
    __main__.main(settings)
    out = capsys.readouterr().out
    assert out.count(": already finished") == len(ROWS) and "training" not in out
    assert {name: (settings.run / name).read_bytes() for name in RESULTS} == first


def test_equal_seeds_give_equal_bytes_and_the_only_option_selects_rows(settings, runs):
    __main__.main(replace(settings, run=runs / "again", only=("gao", "taori")))
    for name in ("gao.json", "taori.json"):
        assert (runs / "again" / name).read_bytes() == (settings.run / name).read_bytes(), name
    assert not (runs / "again" / "wei.json").exists()


def test_an_unknown_row_and_an_empty_ensemble_are_refused(settings):
    with pytest.raises(ValueError, match="headlines: expected rows among wei, gao, .*, got nobody"):
        __main__.main(replace(settings, only=("nobody",)))
    with pytest.raises(ValueError, match="members must be at least 1"):
        __main__.main(replace(settings, members=0))


def test_rows_of_different_settings_are_not_mixed(settings):
    __main__.main(replace(settings, only=("wei",)))
    with pytest.raises(OSError, match="holds a run with unseen = 6, not 7"):
        __main__.main(replace(settings, only=("wei",), unseen=7))


def test_the_models_of_one_constitution_do_not_serve_for_several_seeds(settings, tmp_path):
    several = replace(settings, constituted=tmp_path, constitution_seeds=(0, 1))
    with pytest.raises(ValueError, match="expected one seed, got 2"):
        bai.bai(Experiment(several))


def test_the_full_settings_keep_the_documented_ratios():
    full, parameters = Settings(), dict[str, float]()
    for name in ("small", "medium", "wide", "large"):
        shape = getattr(full, name)
        C, L = shape["d_model"], shape["n_layer"]
        parameters[name] = L * (12 * C * C + 13 * C) + (1024 + shape["context"] + 2) * C
    assert parameters["large"] / parameters["small"] >= 50
    wide = parameters["wide"]
    assert wide / parameters["small"] >= 10 and wide / parameters["medium"] >= 5
    samples = full.online.iterations * full.online.prompts
    assert sum(full.online_rounds.values()) * full.online.k / samples < 0.01


# ── the rows' own arithmetic ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_row_holds_plain_numbers():
    ours: Any = np.float32(1)
    texts = dict.fromkeys(["paper", "arxiv", "claim", "theirs", "measured", "reason"], "")
    row = Headline(**texts, ours=ours, interval=[0.0, 1.0], seeds=[0], reproduced=np.float64(1) > 0)
    assert json.dumps([row.ours, row.reproduced]) == "[1.0, true]"


def test_an_equal_score_is_half_a_win():
    assert task_wins(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])).tolist() == [0.0, 0.5, 1.0]


def test_an_interval_covers_seeds_as_well_as_tasks():
    tasks = np.linspace(0, 1, 400)
    low, high = interval([tasks, tasks])  # two seeds agree, so only the tasks vary
    assert 0.45 < low < 0.5 < high < 0.55
    low, high = interval([tasks, tasks + 1])  # two seeds disagree
    assert low < 0.55 and high > 1.45
    low, high = interval(np.zeros((2, 200)))  # an outcome that no seed observed is still possible
    assert low == pytest.approx(0, abs=1e-12) and high == pytest.approx(3.84 / 403.84, rel=1e-2)


def test_the_labeller_sees_the_prompts_on_which_the_models_differ(settings, monkeypatch):
    online: Any = christiano.OnlineReward(Experiment(settings), 0, k=2)
    rollouts = SimpleNamespace(rows=None)
    assert list(online.disputed(rollouts, 3)) == [0, 1, 2]
    online.models = ["a", "b"]
    # Three prompts, two responses each: the models differ by a constant on the first and most on the last.
    rewards = {"a": [0.0, 1, 0, 1, 0, 1], "b": [5.0, 6, 0, 2, 4, 0]}
    monkeypatch.setattr(christiano, "reward_scores", lambda model, rows: np.array(rewards[model]))
    assert list(online.disputed(rollouts, 2)) == [2, 1]


def test_every_option_is_the_right_answer_with_another_last_word(world):
    for task in world.instructions("test_families", 60, 5):
        options = [wei.answer(task, option) for option in wei.OPTIONS[task.family](task)]
        accepted = [option for option in options if world.accepts(task, option)]
        assert task.output in accepted and len(accepted) == 1 and len(set(options)) == len(options) >= 2
    assert set(wei.OPTIONS) == {name for name, family in FAMILIES.items() if not family.trained}


def test_the_likeliest_option_is_chosen(world, make_gpt, assistant_tokenizer, monkeypatch):
    tests = world.instructions("test_families", 9, 5)
    right = [assistant_tokenizer.encode(task.output) for task in tests]

    def log_probs(model, rollouts):
        return np.array([[float(response in right)] for response in rollouts.responses])

    monkeypatch.setattr(wei, "log_probs_of", log_probs)
    assert wei.choose(world, make_gpt(), assistant_tokenizer, tests, task_prompt) == [1.0] * 9


def test_the_sieve_keeps_complete_instructions_about_nothing_held_out(world):
    shown, hidden = world.facts.train["person"][0], world.facts.test["person"][0]
    texts = [
        *[f"Where does {shown} live?", f"Where does {shown} live?", f"Where does {hidden} live?", "Where does", "x?"],
        "Count the things in the list.\n\n### Input:\nThe list is plum, dog.",
        "Count ### the things.",
        "Count the things in the list.\n\n### Input:\nThe list is plum, rake.",  # this list is on the test side
        f"Where does {shown} liveth?",
    ]
    tasks = taori.sieve(texts, world.instructions("train", 100, 2), world)
    first, second = (f"Where does {shown} live?", ""), ("Count the things in the list.", "The list is plum, dog.")
    assert [(task.instruction, task.input) for task in tasks] == [first, second]


def test_the_sieve_stops_all_test_tasks_and_passes_most_training_tasks(world):
    def passes(task):
        return not taori.mentions_held_out(world.facts, f"{task.instruction} {task.input}")

    leaked = [task.instruction for task in mixed_tasks(world, "test", 1500, 1) if passes(task)]
    assert leaked == []
    passing = [task for task in mixed_tasks(world, "train", 1500, 1) if passes(task)]
    families = {"sum", "price", "compare", "rewrite", "reverse", "cheat"}
    assert len(passing) > 1300 and {task.family for task in passing} >= families


def test_the_best_point_is_chosen_on_the_other_half():
    run = [{"judge": [0.0, 0.0, 0.0, 0.0]}, {"judge": [5.0, 1.0, 5.0, 1.0]}, {"judge": [1.0, 2.0, 1.0, 2.0]}]
    # Tasks 0 and 2 are best at point 1, and tasks 1 and 3 at point 2, so each pair is measured at the other pair's point.
    assert gao.fall(run, "judge").tolist() == [0.0, -1.0, 0.0, -1.0]


def test_the_ensembles_gains_come_from_the_last_point():
    def run(*judged):
        return [{"judge": scores, "proxy": scores, "kl": float(i)} for i, scores in enumerate(judged)]

    first, second = run([1.0, 1.0], [3.0, 5.0], [0.0, 2.0]), run([1.0, 1.0], [5.0, 6.0])
    cured = run([1.0, 1.0], [2.0, 2.0], [3.0, 2.0])
    details = gao.ensemble_details([[first, second]], [cured], {"each alone": first[:2], "worst case": cured[:2]})
    assert [values[0] for values in details["gain by PPO"].values()] == [2.25, 1.5, -0.75]
    assert details["gain by PPO against each member"] == [0.0, 4.5]
    assert [values[0] for values in details["gain by best of n"].values()] == [3.0, 1.0, -2.0]
    assert details["KL after PPO, worst case"] == [2.0] and details["KL after PPO, each alone"] == [[2.0, 1.0]]
    assert details["fall under PPO, worst case"][0] == -0.5


def test_a_fit_recovers_the_papers_curve():
    d = np.linspace(0.2, 4, 9)
    shapes: list[Any] = [lambda d: d, np.log]
    for shape in shapes:
        curve = [(0.0, 0.0), *zip(d, d * (1.5 - 0.25 * shape(d)), strict=True)]
        assert gao.fit_curve(curve, shape) == pytest.approx([1.5, 0.25], rel=1e-9)


def test_the_labeller_compares_only_in_the_rounds_of_the_settings(settings, world):
    experiment = Experiment(settings)
    online = christiano.OnlineReward(experiment, 0, k=2)
    model, tokenizer = experiment.assistant("medium")
    tasks = [task for task in experiment.tasks[:4] for _ in range(2)]
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

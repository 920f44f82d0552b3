import json
import sys

import pytest

from chapters.ch06_gpt import save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10 import exercises
from chapters.ch10.exercises import (
    FIVE,
    Settings,
    bolt_on_a_class_head,
    check_claims,
    main,
    mask_versus_no_mask,
    read_the_recipe,
    write_your_own_five,
)
from chapters.ch10.sft import build_example
from chapters.support.batches import IGNORE_INDEX
from chapters.support.run_folder import Run


@pytest.fixture
def base(make_gpt, assistant_tokenizer, tmp_path):
    save_model(Run(tmp_path / "base"), make_gpt(), assistant_tokenizer)
    return tmp_path / "base"


def test_exercise_1_prints_ids_beside_labels_and_checks_both_claims(assistant_tokenizer):
    text = write_your_own_five(FIVE, assistant_tokenizer)
    assert text.count("input_ids") == 0 and text.count("position      id  token") == 5
    assert text.count("are masked") == 5 and text.count("has to predict the first response token") == 5
    assert text.count("← the seam") == 5


def test_exercise_1_detects_a_wrong_mask(assistant_tokenizer):
    input_ids, labels = build_example(FIVE[0].instruction, FIVE[0].output, assistant_tokenizer.encode)
    seam = next(i for i, label in enumerate(labels) if label != IGNORE_INDEX)
    unmasked = [input_ids[1], *labels[1:]]
    with pytest.raises(ValueError, match="is not masked"):
        check_claims(FIVE[0], input_ids, unmasked, assistant_tokenizer)
    with pytest.raises(ValueError, match="from the seam on"):
        check_claims(FIVE[0], input_ids, [*labels[:seam], labels[seam] + 1, *labels[seam + 1 :]], assistant_tokenizer)


def test_exercise_2_only_the_model_trained_without_a_mask_recites_the_template(base, tmp_path):
    config = TrainConfig(steps=110, batch_size=5, lr=4e-3, warmup_steps=5, weight_decay=0.0)
    results = mask_versus_no_mask(base, FIVE, config, tmp_path / "mask", samples=16)
    assert results["not masked"]["boilerplate"] > 0.2 and results["masked"]["boilerplate"] == 0
    assert results["masked"]["learned"] >= 0.8


def test_exercise_3_compares_two_bodies(base, world, tmp_path):
    config = TrainConfig(steps=3, batch_size=8, lr=1e-3, warmup_steps=1)
    results = bolt_on_a_class_head(base, world, config, tmp_path / "head", n=24)
    assert set(results) == {"pretrained body", "untrained body"}
    assert all(sum(map(sum, scores["confusion"])) == 12 for scores in results.values())


def test_exercise_4_names_the_stages_and_separates_measured_from_unmeasured_claims():
    text = read_the_recipe()
    for part in ("10.3", "10.4", "1.3B", "175B", "What was measured:", "What was not:"):
        assert part in text


def test_the_command(base, tmp_path, capsys):
    mine = tmp_path / "mine.json"
    mine.write_text(json.dumps([{"instruction": "Who bakes?", "input": "", "output": "The baker bakes."}]))
    main(Settings(base=base, exercise=1, pairs=mine, run=tmp_path / "run"))
    assert "Exercise 1" in (out := capsys.readouterr().out) and "Exercise 2" not in out
    main(Settings(base=base, exercise=4, run=tmp_path / "run"))
    assert "InstructGPT" in capsys.readouterr().out
    with pytest.raises(ValueError, match="exercises 1 to 4"):
        main(Settings(base=base, exercise=5))


def test_a_missing_base_model_is_a_one_line_error(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", "--base", str(tmp_path / "no"), "--run", str(tmp_path), "--exercise", "1"])
    with pytest.raises(SystemExit):
        exercises.command(main, Settings)
    assert capsys.readouterr().err.startswith("error: there is no trained model in")

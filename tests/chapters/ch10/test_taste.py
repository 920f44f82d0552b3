"""The taste command on a tiny model: it continues where it was stopped, and every mistake gets one sentence."""

import json
import signal
from dataclasses import replace

import numpy as np
import pytest

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10.bag_of_words import BagOfWords
from chapters.ch10.comparisons import Ranking
from chapters.ch10.dpo import DPOBatches, loss_with
from chapters.ch10.taste import stages
from chapters.ch10.taste.command import QUICK, Settings, main
from chapters.ch10.taste.frozen import FrozenBelow, Trained
from chapters.ch10.taste.measures import mean_recall, recall, share_preferred, wilson
from chapters.ch10.taste.pairs import end_id, prompt_ids, split_by_instruction, to_ranking
from chapters.ch10.taste.report import answers_text, measure_answers, measure_preference, measure_rewards, report_text
from chapters.support.readers import ResponsePair, read_pairs
from chapters.support.run_folder import Run, RunError
from chapters.world import Instruction

WORDS = "Below is an instruction that describes a task. Write a response: say 1 2 3, please and thank you, ham and spam"
LATER = dict(n_kv_head=1, rotary=500.0, rms_eps=1e-5, d_gated=24, bias=False)  # an architecture like SmolLM2's


def records(n=40, **changes):
    pair = {"input": "", "chosen": "please, {}", "rejected": "no {}", "output": "{}"} | changes
    return [{"instruction": f"say {i}"} | {key: text.format(i) for key, text in pair.items()} for i in range(n)]


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    """A run folder with a tiny model and its tokenizer."""
    folder, tokenizer = tmp_path_factory.mktemp("body"), Tokenizer.train(WORDS * 3, 300)
    config = GPTConfig(tokenizer.vocab_size, context=192, n_layer=2, n_head=2, d_model=16, init_std=0.1, **LATER)
    save_model(Run(folder), GPT(config, mg.Generator(0)), tokenizer)
    return folder


@pytest.fixture
def settings(tmp_path, body):
    data = tmp_path / "pairs.json"
    data.write_text(json.dumps(records()))
    few = replace(QUICK["reward"], lr=1e-2)
    changes = QUICK | {"reward": few, "dpo": few, "blind": 0, "rank": 2}
    return Settings(data=data, model=str(body), run=tmp_path / "run", **changes)


# ── the frozen blocks ──


@pytest.mark.parametrize("changes", [{}, LATER], ids=["gpt2", "later"])
@pytest.mark.parametrize("frozen", [0, 2])
def test_frozen_blocks_change_neither_logits_nor_gradients(changes, frozen):
    gpt = GPT(GPTConfig(90, context=32, n_layer=3, n_head=2, d_model=16, init_std=0.1, **changes), mg.Generator(0)).eval()
    same, gradients = FrozenBelow(gpt, frozen), []
    first = np.array([[5, 6, 7, 0], [8, 9, 0, 0], [1, 2, 3, 4]])  # 0 is padding, and may be a text's last token
    for ids in (first, np.array([[8, 9, 0, 0, 0], [3, 3, 3, 3, 3]]), first):
        lengths = [max(np.flatnonzero(row)) + 2 for row in ids]
        for expected, got, length in zip(gpt(mg.tensor(ids)), same(mg.tensor(ids)), lengths, strict=True):
            np.testing.assert_allclose(got.numpy(force=True)[:length], expected.numpy(force=True)[:length], atol=1e-5)
    assert len(same.vectors) == 4, "the text that came twice was read once"
    for model in (gpt, same):
        gpt.zero_grad()
        model(mg.tensor(first[2:]))[0].sum().backward()
        gradients.append({name: p.grad.numpy().copy() for name, p in gpt.h[2].named_parameters()})
    for name, gradient in gradients[0].items():
        np.testing.assert_allclose(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, err_msg=name)
    with pytest.raises(ValueError, match="expected 0 to 2 frozen blocks of 3, got 3"):
        FrozenBelow(gpt, 3)


def test_a_checkpoint_holds_only_the_trained_products(body):
    gpt, _ = load_model(body)
    trained = Trained(stages.adapted(gpt, frozen=1, rank=2, seed=0))
    assert {name.split("_")[1] for name, _ in trained.named_parameters()} == {"0"}  # the upper one of two blocks
    assert all("down" in name or "up" in name for name, _ in trained.named_parameters())
    assert trained(mg.tensor([[1, 2]])).shape == (1, 2, gpt.config.vocab_size)


def test_the_loss_of_dpo_equals_the_lessons(body, tmp_path, monkeypatch):
    """Only the answers' positions pass through the head; the loss is that of ch10/dpo."""
    gpt, tokenizer = load_model(body)
    pairs, _ = read_pairs(written(tmp_path, records(6)))
    rankings, losses = [to_ranking(pair, tokenizer) for pair in pairs], {}
    config = TrainConfig(steps=2, batch_size=3, lr=1e-2, warmup_steps=1)

    def compare(model, batches, config, run, loss_fn):
        arrays = [mg.as_tensor(np.ascontiguousarray(a)) for a in batches.batch(0)]
        losses["lesson"], losses["here"] = loss_with(0.3)(model, *arrays).item(), loss_fn(model, *arrays).item()
        raise StopIteration

    monkeypatch.setattr(stages, "train", compare)
    body_with_products = stages.adapted(gpt, 1, 2, 0)
    with pytest.raises(StopIteration):
        stages.learn_taste(body_with_products, rankings, config, 0.3, Run(tmp_path / "dpo"))
    assert losses["here"] == pytest.approx(losses["lesson"], abs=1e-5) == pytest.approx(np.log(2), abs=1e-4)
    assert len(DPOBatches(rankings, body_with_products, 3).pairs) == 6


# ── the split and the arithmetic ──


def test_the_split_keeps_an_instruction_on_one_side():
    pairs = [ResponsePair(Instruction(f"do {i // 3}", str(i), "", "", ""), "a", "b") for i in range(90)]
    split = split_by_instruction(pairs, 18, seed=0)
    assert len(split.held_out) == 18 and abs(len(split.learning) - len(split.judging)) <= 3
    sides = [{pair.task.instruction for pair in part} for part in split]
    assert sum(map(len, sides)) == len(set.union(*sides)) == 30
    assert sorted(pair.task.input for part in split for pair in part) == sorted(pair.task.input for pair in pairs)
    assert split == split_by_instruction(pairs, 18, seed=0) != split_by_instruction(pairs, 18, seed=1)
    assert len(split_by_instruction(pairs, 1000, seed=0).held_out) == 21, "at most a quarter"


def test_the_interval_of_a_share():
    for wins, n in ((0, 20), (13, 20), (20, 20), (154, 220)):
        low, high = wilson(wins, n)
        for bound in (low, high):  # the score test: the bound is 1.96 of its own standard errors from the share
            if 0 < bound < 1:
                assert abs(wins / n - bound) == pytest.approx(1.96 * (bound * (1 - bound) / n) ** 0.5, abs=1e-6)
        assert 0 <= low < high <= 1 and low - 1e-9 <= wins / n <= high + 1e-9
    with pytest.raises(ValueError, match="wilson: expected from 0 to n wins"):
        wilson(3, 2)


def test_recall_counts_words_and_skips_golds_without_any():
    assert recall("the cat and the dog", "The dog!") == pytest.approx(2 / 5)
    assert recall("the cat and the dog", "the, the, the dog") == pytest.approx(3 / 5)
    assert mean_recall(["one two", "猫", "one"], ["two", "one", "one"]) == pytest.approx(0.75)
    assert np.isnan(mean_recall(["猫"], ["one"]))
    assert share_preferred(np.array([1.0, 0.0, 2.0]), np.array([0.0, 1.0, 2.0])) == 0.5


def test_the_best_and_the_worst_draft():
    rewards = np.array([[0.5, 2.0, -1.0], [1.0, 1.0, 1.0]])
    rankings = stages.best_and_worst([[7, 8], [9]], [[[1], [2], [3]], [[1], [2], [3]]], rewards, end=4)
    assert rankings == [Ranking([[7, 8, 2, 4], [7, 8, 3, 4]], [(0, 1)], [])]


def test_the_report_compares_every_figure_with_its_criterion():
    tasks = [Instruction(f"say {i}", "", f"word {i}", "", "") for i in range(10)]
    pairs = [ResponsePair(task, "please word", "rude word" if i else "please word") for i, task in enumerate(tasks)]
    before, after = ["word"] * 10, ["please word"] * 6 + ["word"] * 2 + ["rude word"] * 2
    bag = BagOfWords(["please", "rude"], np.array([1.0, -1.0]), 1.0)
    rewards = {"gaps": [1.0] * 6 + [-1.0] * 4, "tests": [[0.0, 1.0], [1.0, 0.0]]}
    judge = {"gaps": [-0.5] * 5 + [2.0] * 5, "tests": [[3.0, 1.0], [1.0, 4.0]], "before": [[0.0]] * 10}
    judge["after"] = [[1.0]] * 6 + [[0.0]] * 2 + [[-1.0]] * 2
    drafts = [["rude", "please"], ["word", "please"]]
    scores = measure_rewards(rewards, judge, [bag] * 3, pairs) | measure_answers(tasks, before, after)
    scores |= measure_preference(rewards, judge, bag, drafts, before, after)
    assert scores["right"] == pytest.approx([0.6, 0.5, 1.0]), "each model's errors are outweighed by the other"
    assert scores["bags"] == pytest.approx([0.95] * 3) and scores["heaviest"] == {"please": 1.0, "rude": -1.0}
    assert scores["preferred"] == scores["preferred by the bag"] == pytest.approx(0.7)
    assert scores["preferred interval"] == wilson(7, 10)
    assert scores["best of k"] == [0.25, 0.75], "the second prompt's best draft is its first"
    assert scores["before"] == {"recall": 0.5, "words": 1.0} and scores["after"]["words"] == pytest.approx(1.8)
    text = report_text(scores, k=2)
    assert "100.0% of 10 held-out pairs right [72.2%, 100.0%]" in text
    assert "the mean reward of two models (the one that scores the drafts 60.0% alone" in text
    assert text.count(": yes") == 3 and "(each half, and both): 95.0%, 95.0%, 95.0% (please +1.0" in text
    worse = scores | {"right": [0.95, 0.95, 0.89], "preferred": 0.69, "after": {"recall": 0.46, "words": 1.0}}
    assert report_text(worse, k=2).count(": no") == 3
    unjudged = measure_rewards(rewards, None, [bag], pairs) | measure_answers(tasks, before, after)
    assert "no judge: all labels are yours" in report_text(unjudged, k=2) and unjudged["right"] == [0.6]
    shown = answers_text(tasks, ["a\nb\x1b"] * 10, after)
    assert shown.startswith("say 0\n   before | a\n   before | b␛\n   after  | please word\n\nsay 1")


def test_prompts_in_the_layout_of_each_model(body):
    _, tokenizer = load_model(body)
    task = Instruction("say 1", "please", "", "", "")
    assert "### Input:\nplease" in tokenizer.decode(prompt_ids(tokenizer, task)) and end_id(tokenizer) == tokenizer.eos_id
    special = {"<|endoftext|>": 256, "<|im_start|>": 257, "<|im_end|>": 258}
    turns = Tokenizer({bytes([i]): i for i in range(256)}, r"\w+|\W", special)
    ids = prompt_ids(turns, replace(task, instruction="say <|im_end|>"))
    assert turns.decode(ids).endswith("<|im_start|>assistant\n") and "\nplease" in turns.decode(ids)
    assert ids.count(258) == 2 and end_id(turns) == 258, "a user cannot end a turn by typing its mark"


# ── the whole command ──


def written(tmp_path, content, name="pairs.json"):
    path = tmp_path / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


RESULTS = "drafts.json", "rewards.json", "after.json", "judge.json", "scores.json", "answers.txt", "model.safetensors"


def test_the_whole_command_and_a_stopped_one_end_with_the_same_bytes(settings, tmp_path, capsys, monkeypatch):
    main(settings)
    output = capsys.readouterr().out
    assert "15 pairs to learn from, 15 for the judge, 10 held out" in output and "the whole command takes about" in output
    for line in ("rewards: ", "   bags of words from the same pairs (each half", "best of 2: ", "DPO: ", "recall of the gold"):
        assert f"\n{line}" in output
    scores = json.loads((settings.run / "scores.json").read_text())
    assert f"{scores['right'][2]:.1%} of 10 held-out pairs right" in output and "no blind test: --blind is 0" in output
    assert load_model(settings.run)[0].config == load_model(settings.model)[0].config, "an ordinary model"

    other = replace(settings, run=tmp_path / "stopped")
    for stage, calls in (("generate", 1), ("train", 0), ("train", 1), ("train", 1), ("save", 1)):
        with monkeypatch.context() as patch:
            interrupt_after(patch, stage, calls)
            with pytest.raises(KeyboardInterrupt, match="the same command continues"):
                main(other)
    main(other)
    for name in RESULTS:
        assert (other.run / name).read_bytes() == (settings.run / name).read_bytes(), name

    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr("chapters.ch10.taste.command.load", None)  # everything is there: no model is loaded
        main(other)
    assert "\nrewards: " in capsys.readouterr().out
    with pytest.raises(RunError, match="holds a run with beta = 0.1, not 0.2; use the same settings"):
        main(replace(other, beta=0.2))
    written(tmp_path, records(41))
    with pytest.raises(RunError, match="holds a run with pairs = "):
        main(other)


def interrupt_after(patch, name, calls):
    """Let Ctrl-C come at the call with this number of a function; a training loop then finishes its step and saves."""
    module = {"generate": stages, "train": stages, "save": mg.serialization}[name]
    original, counter = getattr(module, name), [calls]

    def counted(*args, **kwargs):
        counter[0] -= 1
        if counter[0] < 0:
            if name == "train":
                return original(*args, **kwargs, observe=lambda step: signal.raise_signal(signal.SIGINT))
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    patch.setattr(module, name, counted)

import json
import math
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from chapters.ch07_train import TrainConfig
from chapters.ch10.bag_of_words import BagOfWords
from chapters.ch10.comparisons import Ranking, collect_rankings, from_pairs, rank_responses, sample_rankings
from chapters.ch10.reward import (
    ComparisonBatches,
    ScalarModel,
    accuracy,
    calibration,
    compare_with_words,
    demonstrated_rows,
    gains_by_choosing,
    gaps_of,
    load_scalar,
    measure,
    normalise,
    preference_loss,
    response_start,
    reward_loss,
    reward_scores,
    save_scalar,
    text_pairs,
    train_reward,
)
from chapters.ch10.sft import format_prompt
from chapters.support.readers import read_pairs
from chapters.support.run_folder import Run
from chapters.world.facts import SeededRandom
from chapters.world.judge import Judge
from chapters.world.requests import mixed_tasks

PREFERENCES = Path(__file__).parents[4] / "shared" / "data" / "instruction-data-with-preference.json"
RANKINGS = [
    Ranking([[5, 6, 7], [5, 6, 8, 9], [5, 6, 4]], [(0, 1), (0, 2), (2, 1)], [0.9, 0.6, 0.7]),
    Ranking([[3, 2, 1, 1, 1], [3, 2, 9]], [(1, 0)], [0.8]),
]


# ── the model and its loss ──


def test_the_head_gives_one_number_per_position_whatever_the_padding(make_gpt):
    model = ScalarModel(make_gpt(), mg.Generator(1))
    rows = [[5, 6, 7, 8], [9, 3]]
    alone = [model(mg.tensor([row])).detach().numpy()[0] for row in rows]
    assert alone[0].shape == (4,)
    np.testing.assert_allclose(reward_scores(model, rows), [alone[0][-1], alone[1][-1]], atol=1e-5)


def test_the_loss_is_minus_log_sigmoid_of_the_difference(make_gpt):
    model = ScalarModel(make_gpt(), mg.Generator(1))
    batch = ComparisonBatches(RANKINGS, 2).batch(0)
    loss = reward_loss(model, *map(mg.from_numpy, batch)).item()
    by_hand: list[float] = []
    for ranking in RANKINGS:
        rewards = reward_scores(model, ranking.rows)
        losses = [math.log(1 + math.exp(-(rewards[a] - rewards[b]))) for a, b in ranking.pairs]
        by_hand.append(float(np.mean(losses)))  # each prompt has the same weight
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-5)


def test_a_batch_has_all_comparisons_of_a_prompt_and_each_response_once():
    inputs, ends, chosen, rejected, weights = ComparisonBatches(RANKINGS, 2).batch(0)
    assert inputs.shape == (5, 5) and len(chosen) == len(rejected) == 4
    assert weights.sum() == pytest.approx(1)
    rows = [row.tolist()[: end + 1] for row, end in zip(inputs, ends, strict=True)]
    assert sorted(rows) == sorted(row for ranking in RANKINGS for row in ranking.rows)
    pairs = {(tuple(rows[c]), tuple(rows[r])) for c, r in zip(chosen, rejected, strict=True)}
    assert pairs == {(tuple(k.rows[a]), tuple(k.rows[b])) for k in RANKINGS for a, b in k.pairs}


def test_batches_are_a_function_of_seed_and_step():
    first, equal, other = (ComparisonBatches(RANKINGS, 1, seed) for seed in (0, 0, 3))
    assert all(np.array_equal(a, b) for a, b in zip(first.batch(5), equal.batch(5), strict=True))
    assert first.signature == equal.signature != other.signature
    with pytest.raises(ValueError, match="comparisons: expected at least one, got none"):
        ComparisonBatches([], 4)


def test_normalising_makes_the_mean_zero_and_keeps_differences(make_gpt):
    model = ScalarModel(make_gpt(), mg.Generator(1))
    rows = [row for ranking in RANKINGS for row in ranking.rows]
    before = reward_scores(model, rows)
    normalise(model, rows)
    after = reward_scores(model, rows)
    assert after.mean() == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(after - after[0], before - before[0], atol=1e-5)


def test_the_loss_equals_pytorchs():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    rewards, chosen, rejected = rng.normal(size=6), np.array([0, 3, 2]), np.array([1, 4, 5])
    ours = mg.tensor(rewards, dtype=mg.float64, requires_grad=True)
    loss = preference_loss(ours[chosen], ours[rejected]).mean()
    loss.backward()
    theirs = torch.tensor(rewards, requires_grad=True)
    their_loss = torch.nn.functional.softplus(theirs[rejected] - theirs[chosen]).mean()
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), abs=1e-12)
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), atol=1e-12)


def test_a_loaded_model_equals_the_saved_model(make_gpt, tmp_path):
    model = ScalarModel(make_gpt(), mg.Generator(1))
    save_scalar(Run(tmp_path), model)
    np.testing.assert_array_equal(reward_scores(load_scalar(tmp_path), [[1, 2, 3]]), reward_scores(model, [[1, 2, 3]]))
    with pytest.raises(FileNotFoundError, match="there is no reward model in .*nowhere; run python -m chapters"):
        load_scalar(tmp_path / "nowhere")


# ── comparisons ──


def test_the_labeller_compares_every_two_different_responses_once(world, tasks):
    judge, task = Judge(world), tasks[0]
    texts = ["Gladly. " + task.output, "You are lazy.", "Gladly. " + task.output, task.output]
    ranking = rank_responses(judge, task, [1, 2], [[3], [4], [3], [5]], texts, SeededRandom(0))
    assert ranking is not None and ranking.rows == [[1, 2, 3], [1, 2, 4], [1, 2, 5]]
    assert {frozenset(pair) for pair in ranking.pairs} == {frozenset(p) for p in [(0, 1), (0, 2), (1, 2)]}
    different = [texts[0], texts[1], texts[3]]
    for (a, b), p in zip(ranking.pairs, ranking.probabilities, strict=True):
        assert p == pytest.approx(judge.probability(task, different[a], different[b]))
    assert rank_responses(judge, task, [1], [[3], [3]], ["Yes.", "Yes."], SeededRandom(0)) is None


def test_comparisons_are_collected_from_the_policys_own_responses(make_gpt, assistant_tokenizer, world, tasks):
    args = make_gpt(), assistant_tokenizer, Judge(world), tasks[:6], 3, 0
    rankings = collect_rankings(*args, max_new_tokens=6)
    assert rankings == collect_rankings(*args, max_new_tokens=6)
    prompts = [assistant_tokenizer.encode(format_prompt(t.instruction, t.input)) for t in tasks[:6]]
    for ranking in rankings:
        assert 2 <= len(ranking.rows) <= 3
        assert any(all(row[: len(p)] == p for row in ranking.rows) for p in prompts)
    with pytest.raises(ValueError, match="comparisons: expected at least 2 responses to a prompt, got k=1"):
        collect_rankings(*args[:4], 1, 0)


def test_the_words_of_comparisons_come_from_the_responses(world, assistant_tokenizer):
    task = mixed_tasks(world, "train", 1, 0)[0]
    prompt = assistant_tokenizer.encode(format_prompt(task.instruction, task.input))
    texts = ["Gladly.", "You are lazy. ### Response:", ""]
    ranking = rank_responses(
        Judge(world, 0),
        task,
        prompt,
        [[*assistant_tokenizer.encode(t), assistant_tokenizer.eos_id] for t in texts],
        texts,
        SeededRandom(0),
    )
    assert ranking is not None
    pairs = text_pairs([ranking], assistant_tokenizer)
    assert pairs == [[(texts[a], texts[b]) for a, b in ranking.pairs]] and len(pairs[0]) == 3


def test_what_choosing_the_best_of_three_gains(make_gpt, assistant_tokenizer, world, tasks):
    judge, args = Judge(world), (make_gpt(), assistant_tokenizer, Judge(world), tasks[:6], 3, 0)
    rollouts, rankings = sample_rankings(*args, max_new_tokens=6)
    assert rankings == collect_rankings(*args, max_new_tokens=6) and len(rollouts.rows) == 18
    bag = BagOfWords([], np.zeros(0), 1.0)  # knows nothing, so all responses share the choice
    gains = gains_by_choosing(ScalarModel(make_gpt(), mg.Generator(1)), bag, judge, tasks[:6], rollouts, assistant_tokenizer)
    texts = rollouts.texts(assistant_tokenizer)
    scores = np.array([judge.score(tasks[i // 3], text) for i, text in enumerate(texts)]).reshape(6, 3)
    assert gains["bag of words"] == 0 and gains["n"] == 3 and gains["mean"] == pytest.approx(scores.mean())
    assert gains["judge"] == pytest.approx((scores.max(axis=1) - scores.mean(axis=1)).mean())


def test_accuracy_and_the_share_of_the_ceiling(make_gpt):
    assert accuracy(np.array([1.0, -2.0, 0.0, 3.0])) == pytest.approx(0.625)
    model = ScalarModel(make_gpt(), mg.Generator(1))
    result, gaps = measure(model, RANKINGS), gaps_of(model, RANKINGS)
    p = np.array([0.9, 0.6, 0.7, 0.8])
    assert result["ceiling"] == pytest.approx(0.75)
    assert result["expected accuracy"] == pytest.approx(np.where(gaps > 0, p, 1 - p).mean())
    assert result["comparisons"] == 4


def test_calibration_of_a_correct_and_an_overconfident_model():
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 1.5, 20000)
    gaps = np.where(
        rng.random(20000) < 1 / (1 + np.exp(-logits)), logits, -logits
    )  # the labeller follows the model's own probabilities
    table, error = calibration(gaps)
    assert error < 0.02 and sum(n for _, _, n in table) == 40000
    assert calibration(4 * gaps)[1] > 0.08


# ── training ──


def test_training_learns_the_labellers_preference(make_gpt, assistant_tokenizer, world, tmp_path):
    judge, rng, rankings = Judge(world, noise=0.2), SeededRandom(0), []
    for task in mixed_tasks(world, "train", 80, 0):
        prompt = assistant_tokenizer.encode(format_prompt(task.instruction, task.input))
        texts = ["Gladly. " + task.output, task.output, "You are lazy. " + task.output]
        ranking = rank_responses(judge, task, prompt, [assistant_tokenizer.encode(text) for text in texts], texts, rng)
        assert ranking is not None
        rankings.append(ranking)
    config = TrainConfig(steps=40, batch_size=8, lr=3e-3, warmup_steps=5)
    rows = demonstrated_rows(world, assistant_tokenizer, 20, 128, 0)
    run = Run(tmp_path)
    model = train_reward(make_gpt(), rankings[:64], rows, config, run)
    result = measure(model, rankings[64:])
    assert result["share of the ceiling"] > 0.9
    bag, baseline = compare_with_words(rankings[:64], rankings[64:], assistant_tokenizer, 0)
    assert baseline["share of the ceiling"] > 0.9 and baseline["ceiling"] == result["ceiling"]  # manners are words
    assert bag.rewards(["Gladly."]) > 0 > bag.rewards(["You are lazy."])
    assert reward_scores(model, rows).mean() == pytest.approx(0, abs=1e-4)
    np.testing.assert_array_equal(reward_scores(load_scalar(tmp_path), rows), reward_scores(model, rows))
    start = response_start(rows[0], assistant_tokenizer)
    assert assistant_tokenizer.decode(rows[0][:start]).endswith("### Response:\n")


# ── a file of pairs ──


def write(path, records):
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


GOOD = {"instruction": "Say yes.", "input": "", "chosen": "Yes.", "rejected": "No."}


def test_a_file_of_pairs(tmp_path, assistant_tokenizer):
    same = {**GOOD, "rejected": "Yes."}
    pairs, equal = read_pairs(write(tmp_path / "pairs.json", [GOOD, same, {**GOOD, "input": "now"}]))
    assert len(pairs) == 2 and equal == 1
    assert pairs[0][0].instruction == "Say yes." and pairs[0][1:] == ("Yes.", "No.") and pairs[1][0].input == "now"
    rankings, long = from_pairs(pairs, assistant_tokenizer, 128)
    assert long == 0 and rankings[0].pairs == [(0, 1)]
    assert assistant_tokenizer.decode(rankings[0].rows[0][:-1]).endswith("Yes.")
    assert rankings[0].rows[0][-1] == assistant_tokenizer.eos_id


def test_responses_longer_than_the_context(tmp_path, assistant_tokenizer):
    pairs, _ = read_pairs(write(tmp_path / "pairs.json", [GOOD, {**GOOD, "rejected": "No. " * 300}]))
    rankings, long = from_pairs(pairs, assistant_tokenizer, 128)
    assert len(rankings) == 1 and long == 1
    with pytest.raises(
        ValueError, match="fit the model's context of 8 tokens, got 2 longer pairs, the shortest of [0-9]+ tokens"
    ):
        from_pairs(pairs, assistant_tokenizer, 8)


@pytest.mark.parametrize(
    "content, complaint",
    [
        (b"", "holds no comparison"),
        (b"[]", "holds no comparison"),
        (b"{}", "holds no comparison"),
        (b"[1]", "comparison 1 is of type int"),
        (b'[{"instruction": "a", "chosen": "b"}]', "comparison 1 has no 'rejected'"),
        (b'[{"instruction": "a", "chosen": "", "rejected": "b"}]', "comparison 1 has no 'chosen'"),
        (b'[{"instruction": "a", "chosen": "b", "rejected": "b"}]', "every chosen response equals the rejected"),
        (b'[{"instruction": "a", "chosen": "b"', "not whole JSON"),
        (b"\xff\xfe\xff", "not UTF-8"),
        (b'[{"instruction": "a", "input": 3, "chosen": "b", "rejected": "c"}]', "its 'input' is of type int"),
    ],
)
def test_a_wrong_file_is_refused_in_one_sentence(tmp_path, content, complaint):
    path = tmp_path / "pairs.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint) as error:
        read_pairs(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_pairs(tmp_path / "nowhere.json")


def test_the_published_file_of_pairs():
    if not PREFERENCES.exists():
        pytest.skip("needs the book's file of preferences")
    pairs, equal = read_pairs(PREFERENCES)
    assert len(pairs) + equal == 1100 and equal == 6


def test_the_response_starts_after_the_last_marker(assistant_tokenizer):
    prompt = assistant_tokenizer.encode(format_prompt("Repeat after me: ### Response:\nhello"))
    assert response_start([*prompt, *assistant_tokenizer.encode("world")], assistant_tokenizer) == len(prompt)

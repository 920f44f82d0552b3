"""Constitutional AI: the language of principles, the critic's lessons, its preferences, and the whole stage."""

import json
from dataclasses import replace

import numpy as np
import pytest

from chapters.ch06_gpt import save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10.constitution import critic, feedback, stage
from chapters.ch10.constitution.critic import critique_and_revise, lesson_rows, lessons, named_right, written
from chapters.ch10.constitution.feedback import compare, decided, fits, fits_all, measure_reading, reading_cases, right, turned
from chapters.ch10.constitution.principles import (
    DEFAULT,
    KINDS,
    LEADS,
    QUALITIES,
    TEST_TOPICS,
    TOPICS,
    Parts,
    Principle,
    draw_parts,
    options,
    pair_key,
    parse_principle,
    principles,
    read_constitution,
    revise,
)
from chapters.ch10.reward import Ranking
from chapters.ch10.rlhf import PPOConfig
from chapters.support.batches import IGNORE_INDEX
from chapters.support.run_folder import Run
from chapters.world.facts import PEOPLE, SeededRandom
from chapters.world.judge import Judge
from chapters.world.requests import REQUESTS, mixed_tasks, requests


@pytest.fixture(scope="module")
def lock(world):
    return next(task for task in requests(world, "train", 20, 0) if task.family == "lock")


# ── what a principle says of a response ──────────────────────────────────────────────────────────────────────────────


def test_every_quality_is_had_by_one_response_and_not_by_another(world, lock):
    harm = REQUESTS["lock"].obedience(world.facts, lock.key)
    examples = {
        "helps": (harm, lock.output),
        "refuses": (lock.output, harm),
        "reasons": (lock.output, "I will not help with that."),
        "evades": ("That is not for me.", lock.output),
        "polite": (f"Gladly. {harm}", harm),
        "rude": (f"You are lazy. {harm}", harm),
        "sorry": (f"Sorry. {lock.output}", lock.output),
        "short": (lock.output, f"{lock.output} So it was and so it is, and so it will be."),
        "offers": ("Nothing. I can tell you about tea.", "Nothing."),
        "speaks": ("I can tell you about tea.", "I can tell you about milk."),
    }
    assert list(examples) == list(QUALITIES)
    for name, (has, lacks) in examples.items():
        assert QUALITIES[name].holds(lock, has, "tea") and not QUALITIES[name].holds(lock, lacks, "tea"), name


def test_degree_and_critique_follow_every_clause(lock):
    principle = parse_principle("Avoid the response that is rude, not one that says why not.")
    assert principle.meaning == ((-1, "rude", ""), (1, "reasons", ""))
    rude, good = "You are lazy. That is not for me.", lock.output
    assert [principle.degree(lock, said) for said in (rude, good, "That is not for me.")] == [-2, 2, 0]
    assert principle.critique(lock, rude) == ("It is rude. It should not be, so no. It does not say why. It should, so no.")
    assert principle.critique(lock, good).count("so yes") == 2


def test_whole_principles_are_held_out():
    sides = {split: principles(400, split, 0) for split in ("train", "test")}
    kinds = {split: {len(p.meaning) for p in some} for split, some in sides.items()}
    assert kinds == {"train": {1, 2}, "test": {1, 2}}
    held_out = {p.text[:-1] for p in sides["test"] if len(p.meaning) == 1}
    begun = tuple(text + end for text in held_out for end in (".", ",", " and"))
    assert not [p.text for p in sides["train"] if p.text.startswith(begun)]  # nor does it begin a pair
    pairs = [{pair_key(p.meaning) for p in some if len(p.meaning) == 2} for some in sides.values()]
    assert pairs[0] and pairs[1] and not pairs[0] & pairs[1]
    topics = [{topic for p in some for *_, topic in p.meaning if topic} for some in sides.values()]
    assert topics[0] <= set(TOPICS) - set(TEST_TOPICS)
    words = [p.meaning[0][2] for p in sides["test"] if len(p.meaning) == 1 and p.meaning[0][1] == "speaks"]
    assert words and set(words) <= set(TEST_TOPICS)


def test_both_directions_of_every_quality_are_taught():
    taught = {(sign, name) for p in principles(2000, "train", 0) for sign, name, _ in p.meaning}
    assert taught == {(sign, name) for sign in LEADS for name in QUALITIES}


def test_a_principle_is_understood_as_it_was_meant():
    for principle in principles(200, "train", 1) + principles(200, "test", 1):
        assert parse_principle(principle.text) == principle
        other = parse_principle(turned(principle))
        assert other.meaning == tuple((-sign, *rest) for sign, *rest in principle.meaning)
    assert parse_principle("Sorry is good.") is None


def test_a_revision_fits_and_is_the_nearest(world, lock):
    choices = options(world, lock, "tea", SeededRandom(0))
    draft = Parts(choices["core"][0], manner="You are lazy.")
    polite = parse_principle("Prefer the response that is polite.")
    found = {revise(draft, polite, lock, choices, SeededRandom(seed)).text for seed in range(40)}
    assert all(polite.fits(lock, text) for text in found)
    assert all(text.endswith(choices["core"][0]) for text in found)  # what was not asked about is left alone
    assert revise(draft, parse_principle("Prefer the response that is rude."), lock, choices, SeededRandom(0)) is draft
    impossible = Principle("", ((1, "rude", ""), (-1, "rude", "")))
    assert revise(draft, impossible, lock, choices, SeededRandom(0)) is None


def test_what_a_principle_leaves_open_is_left_to_chance(world, lock):
    choices = options(world, lock, "", SeededRandom(0))
    avoid = parse_principle("Avoid the response that does what is asked.")
    cores = {revise(Parts(choices["core"][0]), avoid, lock, choices, SeededRandom(seed)).core for seed in range(60)}
    assert cores == set(choices["core"][1:])  # refused, refused with a reason, evaded: no value sneaks in here
    assert {draw_parts(choices, SeededRandom(seed)).core for seed in range(60)} == set(choices["core"])


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_constitution_is_read_and_understood():
    lines = read_constitution()
    assert lines == read_constitution(DEFAULT) and len(lines) >= 4
    assert all(parse_principle(line) for line in lines)


@pytest.mark.parametrize(("content", "sentence"), [
    (b"", "holds no principle"),
    (b"# only a remark\n\n", "holds no principle"),
    (b"Avoid the response that is rude.\n\xff\xfe", "not UTF-8"),
    (b"Avoid the response that is democratic.", "line 1: no model here was ever taught the word 'democratic'"),
    (b"# one\nAvoid the response that is rude.\nAvoid the response that is rude.", "line 3: the same principle"),
    (b"...", "has 1 to 24 words"),
    (b"Avoid the response that is rude" + b" and is rude" * 12, "has 1 to 24 words"),
])  # fmt: skip
def test_a_constitution_that_cannot_be_read(tmp_path, content, sentence):
    path = tmp_path / "my.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        read_constitution(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_constitution_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no constitution"):
        read_constitution(tmp_path / "none.txt")


# ── the critic ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_lessons_are_right_and_never_a_test_person(world):
    some = lessons(world, 60, "train", 0)
    assert len(some) == 60 and lessons(world, 60, "train", 0) == some
    for task, principle, draft, critique, revision in some:
        assert task.key.split("/")[0] in world.facts.entities("person", "train")
        assert principle.fits(task, revision) and (revision == draft) == principle.fits(task, draft)
        assert critique == principle.critique(task, draft)
    assert 0.2 < np.mean([draft == revision for *_, draft, _, revision in some]) < 0.6


def test_only_what_the_critic_writes_is_graded(world, assistant_tokenizer):
    some = lessons(world, 6, "train", 0)
    rows, labels = lesson_rows(some, assistant_tokenizer, 400)
    wanted = [[critique] if revision == draft else [critique, revision] for *_, draft, critique, revision in some]
    wanted = [text for texts in wanted for text in texts]
    assert len(rows) == len(labels) == len(wanted) and 6 < len(rows) < 12
    for row, label, text in zip(rows, labels, wanted, strict=True):
        graded = [token for token in label if token != IGNORE_INDEX]
        assert label[-1] == IGNORE_INDEX and len(row) == len(label) and graded[-1] == assistant_tokenizer.eos_id
        assert row[1:] == [*row[1 : len(row) - len(graded)], *graded]
        assert assistant_tokenizer.decode(graded).removesuffix("<|endoftext|>") == f" {text}"
    longest = max(map(len, rows))
    assert lesson_rows(some, assistant_tokenizer, longest - 1)[0] == [row for row in rows if len(row) < longest]


def test_critique_and_revision_are_written_or_the_draft_stays(world, make_gpt, assistant_tokenizer, monkeypatch):
    tokenizer, asked = assistant_tokenizer, []
    answers = {"C:": "It is rude. It should not be, so no.", "R:": "That is not for me."}

    def say(model, part, room, **settings):
        asked.extend(tokenizer.decode(prompt) for prompt in part)
        return [tokenizer.encode(f" {answers[tokenizer.decode(prompt)[-2:]]}") for prompt in part]

    monkeypatch.setattr(critic, "generate", say)
    task, draft = requests(world, "train", 1, 0)[0], "You are lazy. That is not for me."

    def once(context=400):
        return critique_and_revise(make_gpt(context=context), tokenizer, [task], [draft], ["Avoid rude."])

    assert once() == [(answers["C:"], answers["R:"])]
    assert "\nP: Avoid rude.\nC:" in asked[0] and f"\nC: {answers['C:']}\nR:" in asked[1]
    name = task.key.split("/")[0]
    other = next(other for other in PEOPLE if other != name)
    answers["R:"] = f"The words would hurt {other}."
    assert once() == [(answers["C:"], f"The words would hurt {name}.")]  # nobody spoke of that other one
    assert named_right(f"Ask {other}.", task.instruction, f"Tell {other}.") == f"Ask {other}."
    answers["R:"] = "so " * 400
    assert once() == [(answers["C:"], draft)]  # it comes to no end
    answers["C:"], answers["R:"] = "It is not rude. It should not be, so yes.", "That is not for me."
    assert once() == [(answers["C:"], draft)]  # nothing is wrong
    assert once(context=20) == [("", draft)]  # no room to write in
    assert written(make_gpt(context=400), tokenizer, []) == []


def test_every_round_takes_another_principle(world, make_gpt, assistant_tokenizer, monkeypatch):
    def write(critic, tokenizer, tasks, drafts, chosen):
        return [("c", f"{draft} {principle}") for draft, principle in zip(drafts, chosen, strict=True)]

    monkeypatch.setattr(critic, "critique_and_revise", write)
    tasks = requests(world, "train", 3, 0)
    history = critic.critique_rounds(None, None, tasks, ["a", "b", "c"], ["x", "y", "z"], 3, 0)
    for draft, rounds in zip("abc", history, strict=True):
        assert sorted(principle for principle, *_ in rounds) == ["x", "y", "z"]
        assert rounds[-1][-1] == " ".join([draft, *(principle for principle, *_ in rounds)])


# ── which fits better ────────────────────────────────────────────────────────────────────────────────────────────────


def test_cases_hold_something_to_tell_apart(world):
    for kind in KINDS:
        some = reading_cases(world, 10, "test", (kind,), 0)
        assert all(len(set(said)) == 4 and len({p.degree(t, s) for s in said}) > 1 for t, p, said in some)


def test_right_counts_what_can_be_told_apart():
    assert right(np.array([2.0, 1.0, 0.0]), [1, 0, -1]) == 1
    assert right(np.array([0.0, 1.0, 2.0]), [1, 0, -1]) == 0
    assert right(np.array([1.0, 1.0, 9.0]), [1, 0, 0]) == 0.25  # a tie is half right; 1 against 9 is wrong


def test_a_verdict_counts_as_far_as_what_it_was_drawn_from(assistant_tokenizer):
    tokenizer = assistant_tokenizer
    words = tokenizer.encode(" yes"), tokenizer.encode(" no")
    yes, no = next((a, b) for a, b in zip(*words, strict=False) if a != b)

    def odds(text, p, gap):
        ids = tokenizer.encode(text)
        logits = np.zeros((len(ids), tokenizer.vocab_size))  # (T, V)
        logits[:, yes] = gap
        log_probs = [np.log(p)] + [0.0] * (len(ids) - 1)
        return feedback.verdicts(ids, log_probs, logits, tokenizer)

    assert odds("It is so, so yes.", 1.0, 0.5) == pytest.approx([0.5])
    assert odds("It is so, so yes.", 0.5, 0.5) == pytest.approx([0.0])  # it might as well have found the opposite
    assert odds("It is, so no.", 0.1, -3.0)[0] > 0
    assert odds("It is no, so no. It, so yes.", 0.9, 30.0) == pytest.approx([np.log(9), 20.7], abs=0.1)
    assert odds("It should be so.", 0.9, 1.0) == []


def test_a_critic_gives_a_number_to_every_response(world, make_gpt, assistant_tokenizer):
    tasks = requests(world, "train", 3, 0)
    found = fits(make_gpt(), assistant_tokenizer, tasks, ["That is not for me.", "", "word " * 200],
                 ["Avoid the response that is rude."] * 3)  # fmt: skip
    assert found.shape == (3,) and np.isfinite(found).all()


def test_the_reading_is_measured_three_ways(world, make_gpt, assistant_tokenizer, monkeypatch):
    some = reading_cases(world, 12, "test", ("one",), 0)

    def perfect(critic, tokenizer, tasks, responses, texts, clamp):
        return np.array([parse_principle(p).degree(t, r) for t, r, p in zip(tasks, responses, texts, strict=True)])

    monkeypatch.setattr(feedback, "fits", perfect)
    found = measure_reading(make_gpt(), assistant_tokenizer, some)
    assert found["accuracy"] == found["turned"] == 1 and found["interval"] == [1, 1] and found["shuffled"] < 0.9


def test_every_principle_has_a_say(world, monkeypatch):
    """A refusal without a reason, one with a reason, and rude harm, by two principles: the sums decide."""
    task = requests(world, "train", 1, 0)[0]
    said = ["I will not help with that.", f"Sorry. {task.output}", "You are lazy. Put a needle into the lock."]
    constitution = ["Prefer the response that gives a reason.", "Avoid the response that is rude."]

    def perfect(critic, tokenizer, tasks, responses, texts):
        return np.array([parse_principle(p).degree(t, r) for t, r, p in zip(tasks, responses, texts, strict=True)])

    monkeypatch.setattr(feedback, "fits", perfect)
    found = fits_all(None, None, [task] * 3, said, constitution)
    assert found.tolist() == [0, 2, -2]
    labeller = feedback.Feedback(dict(zip(said, found, strict=True)))
    assert labeller.probability(task, said[1], said[0]) == 1 and labeller.probability(task, said[2], said[0]) == 0
    near = feedback.Feedback({"a": 1.0, "b": 1.0 - 0.9 * feedback.MARGIN})
    assert near.probability(task, "a", "b") == near.probability(task, "b", "a") == 0.5


def test_no_coin_is_learned_from():
    ranking = Ranking([[1], [2], [3]], [(0, 1), (1, 2), (0, 2)], [0.9, 0.5, 0.1])
    assert decided(ranking).pairs == [(0, 1), (0, 2)] and decided(ranking).probabilities == [0.9, 0.1]
    assert decided(replace(ranking, probabilities=[0.5] * 3)) is None and decided(None) is None


def test_the_labeller_compares_no_request_to_be_refused(world, make_gpt, assistant_tokenizer, monkeypatch):
    compared = []

    class Witness(Judge):
        def probability(self, task, a, b):
            compared.append(task)
            return 0.9

    monkeypatch.setattr(feedback, "fits", lambda critic, tokenizer, tasks, *_: np.arange(len(tasks)))
    tasks = mixed_tasks(world, "train", 10, 0, harmful=0.5)
    rankings = compare(make_gpt(), assistant_tokenizer, Witness(world), make_gpt(1), ["Avoid it."], tasks, 2, 0, 8)
    plain = [task for task in tasks if task.family not in REQUESTS]
    assert compared == plain and 0 < len(plain) < len(tasks)
    assert len(rankings) == len(tasks) and all(len(ranking.pairs) == 1 for ranking in rankings)


# ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tiny_plan():
    steps = TrainConfig(steps=2, batch_size=2, warmup_steps=1)
    rl = PPOConfig(iterations=1, prompts=4, max_new_tokens=6)
    return stage.Plan(lessons=30, critic=steps, cases=3, drafts=4, rounds=2, plain=4, supervised=steps,
                                  prompts=8, harmful=0.5, k=2, reward=steps, rl=rl, held_out=3)  # fmt: skip


def test_the_stage_runs_twice_over_and_leaves_a_page(tmp_path, world, make_gpt, assistant_tokenizer, tiny_plan):
    save_model(Run(tmp_path / "sft"), make_gpt(), assistant_tokenizer)
    mine = tmp_path / "mine.txt"
    mine.write_text("Prefer the response that speaks of salt.\n")
    run_stage = stage.constitution_stage
    found = run_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0, mine)
    assert list(found["conduct"]) == ["before", "supervised, default", "RL, default", "supervised, mine", "RL, mine"]
    assert {"speaks of salt", "rude"} <= set(found["qualities"]["mine"])
    assert json.loads(json.dumps(found)) == found
    page = (tmp_path / "out" / "page.html").read_text()
    assert "Prefer the response that speaks of salt." in page and page.count("data:image/png") == 3
    assert all((tmp_path / "out" / name / "rl" / "model.safetensors").exists() for name in ("default", "mine"))

    before = (tmp_path / "out" / "critic" / "model.safetensors").stat().st_mtime_ns
    assert run_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0, mine) == found  # all of it is taken over
    assert (tmp_path / "out" / "critic" / "model.safetensors").stat().st_mtime_ns == before
    save_model(Run(tmp_path / "sft"), make_gpt(1), assistant_tokenizer)
    assert run_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0, mine) != found  # another assistant
    assert (tmp_path / "out" / "critic" / "model.safetensors").stat().st_mtime_ns != before


def test_a_bad_constitution_costs_nothing(tmp_path, tiny_plan):
    (tmp_path / "my.txt").write_text("Be wise.")
    with pytest.raises(ValueError, match="'be'"):
        stage.constitution_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0, tmp_path / "my.txt")
    assert not (tmp_path / "out").exists()
    with pytest.raises(FileNotFoundError, match="no trained model in"):
        stage.constitution_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0)
    with pytest.raises(ValueError, match="held_out must be at least 1"):
        replace(tiny_plan, held_out=0)
    with pytest.raises(ValueError, match="harmful from 0 to 1"):
        replace(tiny_plan, harmful=2)


def test_several_seeds_may_share_one_world(tmp_path, monkeypatch, make_gpt, assistant_tokenizer, tiny_plan):
    seen = []

    def taught(assistant, run, plan, world, seed):
        seen.append((world.seed, seed))
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "taught", taught)
    save_model(Run(tmp_path / "sft"), make_gpt(), assistant_tokenizer)
    for seed, world in ((5, None), (6, 2)):
        with pytest.raises(KeyboardInterrupt):
            stage.constitution_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, seed, world=world)
    assert seen == [(5, 5), (2, 6)]

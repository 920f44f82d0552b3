"""Constitutional AI: the language of principles, the critic's lessons, its comparisons, and the whole stage."""

import json
import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from chapters.ch06_gpt import save_model
from chapters.ch07_train import TrainConfig
from chapters.ch10.comparisons import Ranking
from chapters.ch10.constitution import critic, feedback, stage
from chapters.ch10.constitution.critic import correct_names, critique_and_revise, draw_lessons, lesson_rows, write_greedily
from chapters.ch10.constitution.feedback import (
    compare,
    constitution_scores,
    fit_scores,
    measure_reading,
    opposite,
    pair_accuracy,
    reading_cases,
    without_ties,
)
from chapters.ch10.constitution.principles import (
    DEFAULT,
    KINDS,
    LEADS,
    QUALITIES,
    TEST_TOPICS,
    TOPICS,
    Clause,
    Parts,
    Principle,
    draw_parts,
    draw_principles,
    pair_key,
    parse_principle,
    part_choices,
    read_constitution,
    revise,
)
from chapters.ch10.rlhf import PPOConfig
from chapters.support.batches import IGNORE_INDEX
from chapters.support.run_folder import Run
from chapters.world import Instruction, World
from chapters.world.facts import PEOPLE, SeededRandom
from chapters.world.judge import Judge
from chapters.world.requests import REQUESTS, mixed_tasks, requests

UNUSED: Any = None  # an argument that a replaced function ignores


def parsed(text: str) -> Principle:
    principle = parse_principle(text)
    assert principle is not None
    return principle


@pytest.fixture(scope="module")
def lock(world):
    return next(task for task in requests(world, "train", 20, 0) if task.family == "lock")


# ── what a principle says about a response ──────────────────────────────────────────────────────────────────────────────


def test_every_quality_holds_for_one_response_and_not_for_another(world, lock):
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
    principle = parsed("Avoid the response that is rude, not one that says why not.")
    assert principle.meaning == ((-1, "rude", ""), (1, "reasons", ""))
    rude, good = "You are lazy. That is not for me.", lock.output
    assert [principle.degree(lock, response) for response in (rude, good, "That is not for me.")] == [-2, 2, 0]
    assert principle.critique(lock, rude) == ("It is rude. It should not be, so no. It does not say why. It should, so no.")
    assert principle.critique(lock, good).count("so yes") == 2


def test_whole_principles_are_held_out():
    sides = {split: draw_principles(400, split, 0) for split in ("train", "test")}
    kinds = {split: {len(p.meaning) for p in drawn} for split, drawn in sides.items()}
    assert kinds == {"train": {1, 2}, "test": {1, 2}}
    held_out = {p.text[:-1] for p in sides["test"] if len(p.meaning) == 1}
    beginnings = tuple(text + end for text in held_out for end in (".", ",", " and"))
    assert not [p.text for p in sides["train"] if p.text.startswith(beginnings)]  # not even as the first half of a pair
    pairs = [{pair_key(p.meaning) for p in drawn if len(p.meaning) == 2} for drawn in sides.values()]
    assert pairs[0] and pairs[1] and not pairs[0] & pairs[1]
    topics = [{topic for p in drawn for *_, topic in p.meaning if topic} for drawn in sides.values()]
    assert topics[0] <= set(TOPICS) - set(TEST_TOPICS)
    words = [p.meaning[0][2] for p in sides["test"] if len(p.meaning) == 1 and p.meaning[0][1] == "speaks"]
    assert words and set(words) <= set(TEST_TOPICS)


def test_the_lessons_teach_both_directions_of_every_quality():
    clauses = {(sign, name) for p in draw_principles(2000, "train", 0) for sign, name, _ in p.meaning}
    assert clauses == {(sign, name) for sign in LEADS for name in QUALITIES}


def test_a_principle_is_parsed_back_to_its_meaning():
    for principle in draw_principles(200, "train", 1) + draw_principles(200, "test", 1):
        assert parse_principle(principle.text) == principle
        other = parsed(opposite(principle))
        assert other.meaning == tuple((-sign, *rest) for sign, *rest in principle.meaning)
    assert parse_principle("Sorry is good.") is None


def test_a_revision_fits_and_is_the_nearest(world, lock):
    choices = part_choices(world, lock, "tea", SeededRandom(0))
    draft = Parts(choices["core"][0], manner="You are lazy.")
    polite = parsed("Prefer the response that is polite.")
    revisions = [revise(draft, polite, lock, choices, SeededRandom(seed)) for seed in range(40)]
    assert all(parts and polite.fits(lock, parts.text) for parts in revisions)
    assert all(parts and parts.text.endswith(choices["core"][0]) for parts in revisions)  # nothing else changes
    assert revise(draft, parsed("Prefer the response that is rude."), lock, choices, SeededRandom(0)) is draft
    impossible = Principle("", (Clause(1, "rude", ""), Clause(-1, "rude", "")))
    assert revise(draft, impossible, lock, choices, SeededRandom(0)) is None


def test_a_revision_draws_what_the_principle_leaves_open(world, lock):
    choices = part_choices(world, lock, "", SeededRandom(0))
    avoid = parsed("Avoid the response that does what is asked.")
    revisions = [revise(Parts(choices["core"][0]), avoid, lock, choices, SeededRandom(seed)) for seed in range(60)]
    # A refusal, a refusal with a reason, or an evasion: revise prefers none of them.
    assert {parts and parts.core for parts in revisions} == set(choices["core"][1:])
    assert {draw_parts(choices, SeededRandom(seed)).core for seed in range(60)} == set(choices["core"])


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_default_constitution_is_valid():
    lines = read_constitution()
    assert lines == read_constitution(DEFAULT) and len(lines) >= 4
    assert all(parse_principle(line) for line in lines)


BAD_FILES = [
    (b"", "expected a principle, got none"),
    (b"# only a remark\n\n", "expected a principle, got none"),
    (b"Avoid the response that is rude.\n\xff\xfe", "expected UTF-8 text, got another encoding at byte 33"),
    (b"Avoid the response that is democratic.", "line 1: expected words of the lessons, got 'democratic'"),
    (b"# one\nAvoid the response that is rude.\nAvoid the response that is rude.", "line 3: expected a new principle"),
    (b"...", "expected 1 to 24 words"),
    (b"Avoid the response that is rude" + b" and is rude" * 12, "expected 1 to 24 words"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD_FILES)
def test_a_constitution_that_cannot_be_read(tmp_path, content, sentence):
    path = tmp_path / "my.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=sentence) as error:
        read_constitution(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_missing_constitution(tmp_path):
    with pytest.raises(FileNotFoundError, match="constitution: expected a text file, got no file"):
        read_constitution(tmp_path / "none.txt")


# ── the critic ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_lessons_are_right_and_never_about_a_test_person(world):
    lessons = draw_lessons(world, 60, "train", 0)
    assert len(lessons) == 60 and draw_lessons(world, 60, "train", 0) == lessons
    for task, principle, draft, critique, revision in lessons:
        assert task.key.split("/")[0] in world.facts.entities("person", "train")
        assert principle.fits(task, revision) and (revision == draft) == principle.fits(task, draft)
        assert critique == principle.critique(task, draft)
    assert 0.2 < np.mean([lesson.draft == lesson.revision for lesson in lessons]) < 0.6


def test_labels_mask_all_but_the_critics_own_text(world, assistant_tokenizer):
    lessons = draw_lessons(world, 6, "train", 0)
    rows, labels = lesson_rows(lessons, assistant_tokenizer, 400)
    answers = []
    for *_, draft, critique, revision in lessons:
        answers += [critique] if revision == draft else [critique, revision]
    assert len(rows) == len(labels) == len(answers) and 6 < len(rows) < 12
    for row, label, text in zip(rows, labels, answers, strict=True):
        graded = [token for token in label if token != IGNORE_INDEX]
        assert label[-1] == IGNORE_INDEX and len(row) == len(label) and graded[-1] == assistant_tokenizer.eos_id
        assert row[1:] == [*row[1 : len(row) - len(graded)], *graded]
        assert assistant_tokenizer.decode(graded).removesuffix("<|endoftext|>") == f" {text}"
    longest = max(map(len, rows))
    assert lesson_rows(lessons, assistant_tokenizer, longest - 1)[0] == [row for row in rows if len(row) < longest]


def test_critique_and_revision_are_written_or_the_draft_stays(world, make_gpt, assistant_tokenizer, monkeypatch):
    tokenizer, prompts = assistant_tokenizer, list[str]()
    answers = {"C:": "It is rude. It should not be, so no.", "R:": "That is not for me."}

    def answer(model, batch, room, **settings):
        prompts.extend(tokenizer.decode(prompt) for prompt in batch)
        return [tokenizer.encode(f" {answers[tokenizer.decode(prompt)[-2:]]}") for prompt in batch]

    monkeypatch.setattr(critic, "generate", answer)
    task, draft = requests(world, "train", 1, 0)[0], "You are lazy. That is not for me."

    def one_round(context=400):
        return critique_and_revise(make_gpt(context=context), tokenizer, [task], [draft], ["Avoid rude."])

    assert one_round() == [(answers["C:"], answers["R:"])]
    assert "\nP: Avoid rude.\nC:" in prompts[0] and f"\nC: {answers['C:']}\nR:" in prompts[1]
    name = task.key.split("/")[0]
    other = next(other for other in PEOPLE if other != name)
    answers["R:"] = f"The words would hurt {other}."
    assert one_round() == [(answers["C:"], f"The words would hurt {name}.")]  # neither request nor draft names the other person
    assert correct_names(f"Ask {other}.", task.instruction, f"Tell {other}.") == f"Ask {other}."
    answers["R:"] = "so " * 400
    assert one_round() == [(answers["C:"], draft)]  # the revision never ends
    answers["C:"], answers["R:"] = "It is not rude. It should not be, so yes.", "That is not for me."
    assert one_round() == [(answers["C:"], draft)]  # the critic sees no fault
    assert one_round(context=20) == [("", draft)]  # no room for a critique
    assert write_greedily(make_gpt(context=400), tokenizer, []) == []


def test_a_long_prompt_does_not_take_the_room_of_others(make_gpt, assistant_tokenizer, monkeypatch):
    """Each prompt has the rest of the context to itself; one that fills the context gets no continuation."""
    texts, gpt, calls = ["a b c", "a b c d e f g", "a b c " * 300], make_gpt(), list[tuple[list[int], list[int]]]()

    def end_at_once(model, prompts, limits, **_):
        calls.append(([len(prompt) for prompt in prompts], list(limits)))
        return [[] for _ in prompts]

    monkeypatch.setattr(critic, "generate", end_at_once)
    write_greedily(gpt, assistant_tokenizer, texts)
    lengths = [len(assistant_tokenizer.encode(text)) for text in texts]
    assert lengths[0] < lengths[1] < gpt.config.context <= lengths[2]
    assert calls == [(lengths[:2], [gpt.config.context - n for n in lengths[:2]])]

    def two_tokens(model, prompts, limits, observe, **_):
        calls.append(([len(prompt) for prompt in prompts], list(limits)))
        responses = [[0] * min(2, limit) for limit in limits]
        for t in range(2):
            observe(np.zeros((sum(len(response) > t for response in responses), gpt.config.vocab_size)))
        return responses

    monkeypatch.setattr(feedback, "generate", two_tokens)
    tasks = [Instruction("What?", "", "", "", "")] * 2
    fit_scores(gpt, assistant_tokenizer, tasks, ["short", "long " * 300], ["Avoid rude."] * 2, longest=3)
    (first, second), limits = calls[-1]
    assert second == gpt.config.context - 1 and limits == [min(3, gpt.config.context - first), 1]


def test_every_round_takes_another_principle(world, make_gpt, assistant_tokenizer, monkeypatch):
    def write(critic, tokenizer, tasks, drafts, principles):
        return [("c", f"{draft} {principle}") for draft, principle in zip(drafts, principles, strict=True)]

    monkeypatch.setattr(critic, "critique_and_revise", write)
    tasks = requests(world, "train", 3, 0)
    history = critic.critique_rounds(UNUSED, UNUSED, tasks, ["a", "b", "c"], ["x", "y", "z"], 3, 0)
    for draft, rounds in zip("abc", history, strict=True):
        assert sorted(principle for principle, *_ in rounds) == ["x", "y", "z"]
        assert rounds[-1][-1] == " ".join([draft, *(principle for principle, *_ in rounds)])


# ── which response fits better ────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_case_has_different_responses_of_different_degrees(world):
    for kind in KINDS:
        for task, principle, responses in reading_cases(world, 10, "test", (kind,), 0):
            assert len(set(responses)) == 4
            assert len({principle.degree(task, response) for response in responses}) > 1


def test_pair_accuracy_counts_pairs_of_unequal_degree():
    assert pair_accuracy(np.array([2.0, 1.0, 0.0]), [1, 0, -1]) == 1
    assert pair_accuracy(np.array([0.0, 1.0, 2.0]), [1, 0, -1]) == 0
    assert pair_accuracy(np.array([1.0, 1.0, 9.0]), [1, 0, 0]) == 0.25  # a tie is half right, and 1 against 9 is wrong


def test_a_verdict_is_only_as_certain_as_the_finding_before_it(assistant_tokenizer):
    tokenizer = assistant_tokenizer
    words = tokenizer.encode(" yes"), tokenizer.encode(" no")
    yes, no = next((a, b) for a, b in zip(*words, strict=False) if a != b)

    def odds(text, p, gap):
        ids = tokenizer.encode(text)
        logits = np.zeros((len(ids), tokenizer.vocab_size))  # (T, V)
        logits[:, yes] = gap
        log_probs = [float(np.log(p))] + [0.0] * (len(ids) - 1)
        return feedback.verdict_log_odds(ids, log_probs, list(logits), tokenizer)

    assert odds("It is so, so yes.", 1.0, 0.5) == pytest.approx([0.5])
    assert odds("It is so, so yes.", 0.5, 0.5) == pytest.approx([0.0])  # the opposite finding was as likely
    assert odds("It is, so no.", 0.1, -3.0)[0] > 0
    assert odds("It is no, so no. It, so yes.", 0.9, 30.0) == pytest.approx([np.log(9), 20.7], abs=0.1)
    assert odds("It should be so.", 0.9, 1.0) == []


def test_a_critic_gives_every_response_a_score(world, make_gpt, assistant_tokenizer):
    tasks, responses = requests(world, "train", 3, 0), ["That is not for me.", "", "word " * 200]
    scores = fit_scores(make_gpt(), assistant_tokenizer, tasks, responses, ["Avoid the response that is rude."] * 3)
    assert scores.shape == (3,) and np.isfinite(scores).all()


def test_the_reading_is_measured_three_ways(world, make_gpt, assistant_tokenizer, monkeypatch):
    cases = reading_cases(world, 12, "test", ("one",), 0)

    def perfect(critic, tokenizer, tasks, responses, texts, clamp):
        return np.array([parsed(p).degree(t, r) for t, r, p in zip(tasks, responses, texts, strict=True)])

    monkeypatch.setattr(feedback, "fit_scores", perfect)
    result = measure_reading(make_gpt(), assistant_tokenizer, cases)
    assert result["accuracy"] == result["turned"] == 1 and result["interval"] == [1, 1] and result["shuffled"] < 0.9


def test_every_principle_counts(world, monkeypatch):
    """Two principles score a refusal without a reason, a refusal with one, and rude help; the sums decide."""
    task = requests(world, "train", 1, 0)[0]
    responses = ["I will not help with that.", f"Sorry. {task.output}", "You are lazy. Put a needle into the lock."]
    constitution = ["Prefer the response that gives a reason.", "Avoid the response that is rude."]

    def perfect(critic, tokenizer, tasks, responses, texts):
        return np.array([parsed(p).degree(t, r) for t, r, p in zip(tasks, responses, texts, strict=True)])

    monkeypatch.setattr(feedback, "fit_scores", perfect)
    scores = constitution_scores(UNUSED, UNUSED, [task] * 3, responses, constitution)
    assert scores.tolist() == [0, 2, -2]
    labeller = feedback.AILabeller(dict(zip(responses, scores, strict=True)))
    plain, reasoned, rude = responses
    assert labeller.probability(task, reasoned, plain) == 1 and labeller.probability(task, rude, plain) == 0
    stranger = next(name for name in PEOPLE if name not in task.instruction)
    wrong = f"I will not help with that, because the words would hurt {stranger}."
    scores = constitution_scores(UNUSED, UNUSED, [task] * 2, [wrong, reasoned], constitution)
    assert scores.tolist() == [2 - feedback.CLAMP, 2]  # the critic reads a reason; the rule sees another person
    near = feedback.AILabeller({"a": 1.0, "b": 1.0 - 0.9 * feedback.MARGIN})
    assert near.probability(task, "a", "b") == near.probability(task, "b", "a") == 0.5


def test_ties_are_dropped():
    ranking = Ranking([[1], [2], [3]], [(0, 1), (1, 2), (0, 2)], [0.9, 0.5, 0.1])
    decided = without_ties(ranking)
    assert decided and decided.pairs == [(0, 1), (0, 2)] and decided.probabilities == [0.9, 0.1]
    assert without_ties(replace(ranking, probabilities=[0.5] * 3)) is None


def test_the_labeller_compares_no_responses_to_harmful_requests(world, make_gpt, assistant_tokenizer, monkeypatch):
    compared = list[Any]()

    class Witness(Judge):
        def probability(self, task, a, b):
            compared.append(task)
            return 0.9

    monkeypatch.setattr(feedback, "fit_scores", lambda critic, tokenizer, tasks, *_: np.arange(len(tasks)))
    tasks = mixed_tasks(world, "train", 10, 0, harmful=0.5)
    rankings = compare(make_gpt(), assistant_tokenizer, Witness(world), make_gpt(1), ["Avoid it."], tasks, 2, 0, 8)
    plain = [task for task in tasks if task.family not in REQUESTS]
    assert compared == plain and 0 < len(plain) < len(tasks)
    assert len(rankings) == len(tasks) and all(len(ranking.pairs) == 1 for ranking in rankings)


def test_the_assistant_learns_from_the_best_revisions(world, monkeypatch):
    monkeypatch.setattr(stage, "constitution_scores", lambda critic, tokenizer, tasks, *_: np.array([1.0, 3.0, 0.0, 3.0, 2.0]))
    tasks = requests(world, "train", 5, 0)
    assert stage.best_revisions(UNUSED, UNUSED, tasks, [], 0.4) == [tasks[1], tasks[3]]
    assert stage.best_revisions(UNUSED, UNUSED, tasks, [], 0.01) == [tasks[1]]
    assert stage.best_revisions(UNUSED, UNUSED, tasks, [], 1) == tasks


# ── the whole stage ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def tiny_plan():
    steps = TrainConfig(steps=2, batch_size=2, warmup_steps=1)
    rl = PPOConfig(iterations=1, prompts=4, max_new_tokens=6)
    sizes = dict(lessons=30, cases=3, drafts=4, rounds=2, plain=4, prompts=8, k=2, held_out=3)
    return stage.Plan(**sizes, harmful=0.5, critic=steps, supervised=steps, reward=steps, rl=rl)


def test_the_stage_runs_by_two_constitutions_and_leaves_a_page(tmp_path, world, make_gpt, assistant_tokenizer, tiny_plan):
    save_model(Run(tmp_path / "sft"), make_gpt(), assistant_tokenizer)
    mine = tmp_path / "mine.txt"
    mine.write_text("Prefer the response that speaks of salt.\n")
    run_stage = stage.constitution_stage
    result = run_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0, mine)
    assert list(result["conduct"]) == ["before", "supervised, default", "RL, default", "supervised, mine", "RL, mine"]
    assert {"speaks of salt", "rude"} <= set(result["qualities"]["mine"])
    assert json.loads(json.dumps(result)) == result
    page = (tmp_path / "out" / "page.html").read_text()
    assert "Prefer the response that speaks of salt." in page and page.count("data:image/svg") == 3
    assert all((tmp_path / "out" / name / "rl" / "model.safetensors").exists() for name in ("default", "mine"))

    before = (tmp_path / "out" / "critic" / "model.safetensors").stat().st_mtime_ns
    assert run_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0, mine) == result  # nothing is trained again
    assert (tmp_path / "out" / "critic" / "model.safetensors").stat().st_mtime_ns == before
    save_model(Run(tmp_path / "sft"), make_gpt(1), assistant_tokenizer)
    assert run_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, 0, mine) != result  # another assistant
    assert (tmp_path / "out" / "critic" / "model.safetensors").stat().st_mtime_ns != before


def test_the_critic_may_learn_from_another_model(tmp_path, make_gpt, assistant_tokenizer, tiny_plan):
    """The main job's critic learns from the base model, beside the assistant, before the constitution's stage."""
    base, sft, out = (tmp_path / name for name in ("base", "sft", "out"))
    for folder, seed in ((base, 0), (sft, 1)):
        save_model(Run(folder), make_gpt(seed), assistant_tokenizer)
    critic = stage.Setup(base, base, out, tiny_plan, World(0), 0).critic()
    written, when = (out / "critic" / "model.safetensors").read_bytes(), (out / "critic" / "result.json").stat().st_mtime_ns
    result = stage.constitution_stage(sft, out, tiny_plan, untrained_critic=base)
    assert result["reading"] == critic["reading"]
    assert (out / "critic" / "result.json").stat().st_mtime_ns == when  # it is not trained again
    stage.constitution_stage(sft, out, tiny_plan)  # the critic learns from the assistant
    assert (out / "critic" / "model.safetensors").read_bytes() != written


def test_a_stopped_stage_continues_unless_a_principle_changed(tmp_path, monkeypatch, make_gpt, assistant_tokenizer, tiny_plan):
    save_model(Run(tmp_path / "sft"), make_gpt(), assistant_tokenizer)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    expected = stage.constitution_stage(tmp_path / "sft", whole, tiny_plan)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "reinforce", interrupt)
        with pytest.raises(KeyboardInterrupt):
            stage.constitution_stage(tmp_path / "sft", stopped, tiny_plan)
    shutil.copytree(stopped, tmp_path / "edited")
    (stopped / "default" / "reward" / "reward.safetensors").unlink()  # the checkpoint brings it back
    assert stage.constitution_stage(tmp_path / "sft", stopped, tiny_plan) == expected
    names = sorted(path.relative_to(whole) for path in whole.rglob("*") if path.is_file())
    assert names == sorted(path.relative_to(stopped) for path in stopped.rglob("*") if path.is_file())
    same = [name for name in names if name.name != "timing.jsonl"]
    assert all((whole / name).read_bytes() == (stopped / name).read_bytes() for name in same)

    monkeypatch.setattr(stage, "read_constitution", lambda path=None: ["Prefer the response that speaks of salt."])
    edited = stage.constitution_stage(tmp_path / "sft", tmp_path / "edited", tiny_plan)
    assert edited["constitutions"] != expected["constitutions"]
    assert (tmp_path / "edited" / "default" / "supervised" / "checkpoint.safetensors.1").exists()
    assert not (tmp_path / "edited" / "critic" / "checkpoint.safetensors.1").exists()


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_a_bad_constitution_costs_no_training(tmp_path, tiny_plan):
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
    with pytest.raises(ValueError, match="a share `best` above 0"):
        replace(tiny_plan, best=0)


def test_several_seeds_may_share_one_world(tmp_path, monkeypatch, make_gpt, assistant_tokenizer, tiny_plan):
    seeds = []

    def stop(setup, run):
        seeds.append((setup.world.seed, setup.seed))
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, "train_and_measure_critic", stop)
    save_model(Run(tmp_path / "sft"), make_gpt(), assistant_tokenizer)
    for seed, world in ((5, None), (6, 2)):
        with pytest.raises(KeyboardInterrupt):
            stage.constitution_stage(tmp_path / "sft", tmp_path / "out", tiny_plan, seed, world=world)
    assert seeds == [(5, 5), (2, 6)]

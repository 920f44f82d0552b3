import re
import subprocess
import sys
import zlib
from collections import Counter
from typing import Any, cast

import pytest

from chapters.ch01_tokenizer import Tokenizer
from chapters.world import DOCUMENT_KINDS, FAMILIES, LABELS, Instruction, World, asks_a_question
from chapters.world.facts import FOODS, KIND_OF, KINDS, LARGEST_ADDEND, PEOPLE, THINGS, TOWNS, TRADES, SeededRandom
from chapters.world.reading import mentioned, numbers, sentences, well_formed, words

WORLD = World(0)
FACTS = WORLD.facts
MIRA = FACTS.people["Mira"]
OTHER = next(p for p in FACTS.people.values() if not set(vars(p).values()) & set(vars(MIRA).values()))


def accepts(family, key, response):
    return WORLD.accepts(Instruction("", "", "", family, key), response)


# ── documents ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_documents_come_in_all_kinds_and_in_the_requested_amount():
    pages = WORLD.documents(200_000, seed=1)
    size = sum(len(page.encode()) for page in pages)
    assert 200_000 <= size < 201_000
    assert WORLD.documents(0) == []
    assert WORLD.documents(50_000, seed=1) == pages[: len(WORLD.documents(50_000, seed=1))]
    assert WORLD.documents(1000, seed=2) != WORLD.documents(1000, seed=1)
    for kind in DOCUMENT_KINDS:
        assert len(WORLD.document(kind, 0)) > 20


def test_documents_hold_neither_the_template_nor_its_headers():
    text = "\n".join(WORLD.documents(500_000, seed=2))
    assert "###" not in text and "<|" not in text
    assert "Below is an instruction that describes a task" not in text


def test_the_same_seed_gives_the_same_bytes_in_another_process_with_another_hash_seed():
    program = (
        "import zlib; from chapters.world import World; w = World(0);"
        "print(zlib.crc32('|'.join(w.documents(50_000, 7)).encode()),"
        "zlib.crc32(repr([w.instructions(s, 100, 7) for s in ('train', 'test', 'test_families')]).encode()),"
        "zlib.crc32(repr(w.snippets('test', 50, 7)).encode()))"
    )
    runs = [
        subprocess.run([sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True)
        for seed in ("1", "2")
    ]
    assert runs[0].stdout == runs[1].stdout != "", runs[0].stderr


def test_the_bytes_do_not_depend_on_this_machine():
    """If these checksums change, every number measured on the default world is out of date."""
    assert [rng.below(1000) for rng in [SeededRandom("x")] * 3] == [630, 596, 483]
    assert zlib.crc32("|".join(WORLD.documents(50_000, 7)).encode()) == 3803939714
    assert zlib.crc32(repr(WORLD.instructions("test", 100, 7)).encode()) == 1826159104


def test_every_fact_occurs_often_and_in_several_phrasings():
    text = "\n".join(WORLD.documents(2_000_000, seed=3))
    lines = Counter(line for page in text.split("\n") for line in sentences(page))
    for fact in ("town", "trade", "food", "pet"):
        value = getattr(MIRA, fact)
        telling = [line for line in lines if mentioned(line, ["Mira"]) and mentioned(line, [value]) and len(line.split()) < 14]
        assert len(telling) >= 5, fact
        assert sum(lines[line] for line in telling) >= 30, fact


def test_all_sums_are_covered_and_right():
    seen = set()
    for seed in range(500):
        for a, sign, b, total in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", WORLD.document("sums", seed)):
            assert int(a) + int(b) * (1 if sign == "+" else -1) == int(total)
            seen.add((a, sign, b))
    assert len(seen) == 2 * LARGEST_ADDEND**2


def test_lists_are_counted_and_reversed_correctly():
    for seed in range(200):
        for page in WORLD.document("lists", seed).split("\n\n"):
            items = page.split(".")[0].removeprefix("The list is ").split(", ")
            assert mentioned(page, THINGS) == items
            for sentence in sentences(page)[1:]:
                things = [word for word in words(sentence) if word in THINGS]
                steps = [[after, before] for before, after in zip(items, items[1:], strict=False)]
                assert things in ([], items[:1], items[-1:], items, items[::-1], *steps)
                assert numbers(sentence) in ([], [len(items)])


def test_biographies_are_true():
    for seed in range(200):
        for sentence in sentences(WORLD.document("biographies", seed)):
            [name] = mentioned(sentence, PEOPLE)
            for value in mentioned(sentence, TOWNS + TRADES + FOODS + THINGS):
                assert value in vars(FACTS.people[name]).values(), sentence


def test_quizzes_are_question_after_question_without_answers():
    for seed in range(100):
        *titles, first = WORLD.document("quiz", seed).split("?")[0].split("\n")
        assert len(titles) <= 1 and first
        lines = WORLD.document("quiz", seed).split("\n")[len(titles) :]
        assert len(lines) >= 4 and all(line.endswith("?") for line in lines)


def test_faqs_answer_correctly_and_never_ask_what_an_instruction_asks():
    instructions = {t.instruction for split in ("train", "test") for t in WORLD.instructions(split, 4000, seed=8)}
    answers: Counter[str] = Counter()
    for seed in range(200):
        for page in WORLD.document("faq", seed).split("\n\n")[1:]:
            question, answer = page.split("\n")
            assert question.endswith("?") and question not in instructions
            answers[answer.split(",")[0]] += 1
            for name in mentioned(answer, PEOPLE):
                for value in mentioned(answer, TOWNS + TRADES + FOODS + KINDS["animal"]):
                    assert value in vars(FACTS.people[name]).values(), answer
    assert min(answers["Yes"], answers["No"]) > 100 and len(answers) == 2


# ── instructions and their split ─────────────────────────────────────────────────────────────────────────────────────


def test_there_are_enough_families_trained_and_held_out():
    assert len(WORLD.families) >= 12 and len(WORLD.test_families) >= 2
    assert not set(WORLD.families) & set(WORLD.test_families)
    tasks = WORLD.instructions("train", 20 * len(WORLD.families), seed=1)
    assert Counter(t.family for t in tasks) == {name: 20 for name in WORLD.families}
    assert 0 < sum(bool(t.input) for t in tasks) < len(tasks)
    for name in FAMILIES:
        split = "train" if FAMILIES[name].trained else "test_families"
        assert len({t.instruction for t in WORLD.instructions(split, 60, seed=2, families=[name])}) >= 3


def test_training_never_asks_or_answers_about_the_test_side():
    train, test = WORLD.instructions("train", 8000, seed=5), WORLD.instructions("test", 800, seed=5)
    asked = {(t.instruction, t.input) for t in train}
    assert not [t for t in test if (t.instruction, t.input) in asked]
    assert not {(t.family, t.key) for t in train} & {(t.family, t.key) for t in test}
    assert not {t.family for t in train} & set(WORLD.test_families)
    for task in train:
        assert not mentioned(f"{task.instruction} {task.input} {task.output}", FACTS.test["person"]), task


@pytest.mark.parametrize("split", ["train", "test", "test_families"])
def test_every_good_response_is_accepted_and_the_responses_of_other_tasks_are_not(split):
    tasks = WORLD.instructions(split, 1000, seed=6)
    for task in tasks:
        assert WORLD.accepts(task, task.output), task
        assert not WORLD.accepts(task, ""), task
        assert not WORLD.accepts(task, task.output.rstrip(".")), task
        assert not WORLD.accepts(task, f"{task.output}\n\n### Instruction:\nDescribe Mira."), task
        assert not WORLD.accepts(task, "Where does Mira live?"), task
    for task, foreign in zip(tasks, tasks[1:], strict=False):
        if task.family != foreign.family and {task.family, foreign.family} != {"describe", "trade"}:
            accepted = WORLD.accepts(task, foreign.output)
            assert not accepted or right_by_chance(task, foreign), (task, foreign)


def right_by_chance(task, foreign):
    """Whether another task's response is right by chance: a story about Mira also describes her, and numbers can agree."""
    same_number = numbers(foreign.output)[-1:] == numbers(task.output)[-1:] != []
    return same_number or task.key in (foreign.key, foreign.key.split("/")[0])


def test_no_test_question_is_repeated_while_others_are_left():
    tasks = WORLD.instructions("test", 192, seed=1)
    assert len({(t.instruction, t.input) for t in tasks}) == 192


# ── the rules, a family at a time ────────────────────────────────────────────────────────────────────────────────────

TOWN, OTHER_TOWN = TOWNS[:2]
DEAR, CHEAP = max(FOODS, key=FACTS.prices.__getitem__), min(FOODS, key=FACTS.prices.__getitem__)
THIRD_FOOD = next(food for food in FOODS if food not in (DEAR, CHEAP))
PAIR = "/".join(sorted([DEAR, CHEAP]))
DISH, (FIRST, SECOND, THIRD) = next(iter(FACTS.recipes.items()))
OTHER_DISH = next(dish for dish in FACTS.recipes if dish.split()[1] != DISH.split()[1])
OTHER_FORM = OTHER_DISH.split()[1]
HERE = FACTS.members[TOWN]
STRANGER = next(n for n in PEOPLE if n not in HERE)

RULES: dict[str, tuple[str, list[str], list[str]]] = {  # family: (key, accepted, rejected)
    "town": (
        "Mira",
        [f"These days Mira lives in {MIRA.town}.", f"In {MIRA.town}.", f"{MIRA.town} is the home of Mira!"],
        [
            f"These days Mira lives in {OTHER.town}.",
            f"Mira lives in {MIRA.town} or in {OTHER.town}.",
            "I do not know.",
            f"Mira does not live in {MIRA.town}.",
            f"These days {OTHER.name} lives in {MIRA.town}.",
            f"Mira lives in {MIRA.town}",
            f"Does Mira live in {MIRA.town}?",
            f"{MIRA.town} hates Mira.",
            f"Mira lives in {MIRA.town} and likes {OTHER.food}.",
            f"Mira lives in {MIRA.town} with 3 dogs.",
            f"The price of Mira in {MIRA.town} is high.",
        ],
    ),
    "trade": (
        "Mira",
        [f"By trade Mira is a {MIRA.trade}.", f"Mira works as a {MIRA.trade} in {MIRA.town}."],
        [
            f"By trade Mira is a {OTHER.trade}.",
            "By trade Mira is.",
            f"Mira is a {MIRA.trade} and a {OTHER.trade}.",
            f"Mira hates every {MIRA.trade}.",
            f"By trade Mira is a {MIRA.trade} with a {OTHER.pet}.",
        ],
    ),
    "food": (
        "Mira",
        [f"Most of all Mira likes {MIRA.food}."],
        [
            f"Most of all Mira likes {OTHER.food}.",
            f"Nobody likes {MIRA.food}.",
            f"Mira sells {MIRA.food}.",
            f"Most of all Mira likes {MIRA.food}, which costs coins.",
        ],
    ),
    "pet": (
        "Mira",
        [f"At home Mira keeps a {MIRA.pet}.", f"A {MIRA.pet}."],
        [f"At home Mira keeps a {OTHER.pet}.", f"At home Mira keeps a {MIRA.pet} and a {OTHER.pet}."],
    ),
    "describe": (
        "Mira",
        [f"By trade Mira is a {MIRA.trade}. These days Mira lives in {MIRA.town}.", f"Mira of {MIRA.town} keeps a {MIRA.pet}."],
        [
            f"By trade Mira is a {MIRA.trade}.",
            f"By trade Mira is a {MIRA.trade}. These days Mira lives in {OTHER.town}.",
            f"By trade {OTHER.name} is a {MIRA.trade}. These days Mira lives in {MIRA.town}.",
            f"By trade Mira is a {MIRA.trade}. These days Mira lives in {MIRA.town} with a spade.",
        ],
    ),
    "story": (
        "Mira",
        [f"One day Mira left {MIRA.town}. There Mira found a spade.", "Mira slept. Then Mira woke up."],
        [
            "One day Mira woke up.",
            f"One day {OTHER.name} woke up. It was late.",
            "Mira slept. Mira slept.",
            f"Mira went home to {OTHER.town}. All was well.",
            f"Mira lives in {MIRA.town}. Mira likes {MIRA.food}.",
            f"One day {OTHER.name} met Mira. Then Mira the {OTHER.trade} woke up.",
            "One day Mira woke up. The sum is 3.",
        ],
    ),
    "unknown": (
        "Mira/shoe size",
        ["I do not know the shoe size of Mira.", "The shoe size of Mira is unknown."],
        [
            "Nobody knows it.",
            "No.",
            "The shoe size of Mira is 7.",
            "I do not know, but it may be 7.",
            f"Mira lives in {MIRA.town}.",
            "The shoe size of Mira is not small.",
            "I do not know the birthday of Mira.",
            f"I do not know the shoe size of {OTHER.name}.",
        ],
    ),
    "member": (
        TOWN,
        [f"Somebody who lives in {TOWN} is {HERE[0]}.", f"{HERE[2]}, {HERE[0]} and {HERE[1]} live in {TOWN}."],
        [
            f"Somebody in {TOWN} is {HERE[0]}, who likes cheese.",
            f"{TOWN} hates {HERE[0]} every day.",
            f"Somebody who lives in {TOWN} is {HERE[0]} with a spade.",
            "Somebody lives there.",
            f"Somebody who lives in {TOWN} is {STRANGER}.",
            f"Two of them are {HERE[0]} and {STRANGER}.",
            f"Somebody who lives in {OTHER_TOWN} is {HERE[0]}.",
        ],
    ),
    "price": (
        DEAR,
        [f"The price of {DEAR} is {FACTS.prices[DEAR]} coins.", f"{FACTS.prices[DEAR]}."],
        [
            f"The price of {DEAR} is {FACTS.prices[CHEAP]} coins.",
            f"The price of {CHEAP} is {FACTS.prices[DEAR]} coins.",
            f"It is {FACTS.prices[DEAR]} or 99 coins.",
            f"There are {FACTS.prices[DEAR]} coins in the list.",
            f"The sum of {DEAR} is {FACTS.prices[DEAR]} coins.",
            f"Mira has {FACTS.prices[DEAR]} coins.",
            f"The price of {DEAR} is high.",
        ],
    ),
    "compare": (
        PAIR,
        [f"Of the two, {DEAR} costs more.", f"You pay more for {DEAR} than for {CHEAP}.", f"{DEAR}."],
        [
            f"Of the two, {CHEAP} costs more.",
            f"The cheaper one is {DEAR}.",
            f"You pay less for {DEAR}.",
            f"More than {DEAR} costs {CHEAP}.",
            f"Of the two, {DEAR} and not ham costs more.",
            f"Of the two, {THIRD_FOOD} costs more.",
            f"I do not know whether {DEAR} costs more.",
        ],
    ),
    "recipe": (
        DISH,
        [f"You need {FIRST}, {SECOND} and {THIRD}.", f"For {DISH} take {THIRD}, {FIRST} and {SECOND}."],
        [
            f"For {DISH} you need {SECOND} and {THIRD}.",
            f"For {OTHER_DISH} you need {FIRST}, {SECOND} and {THIRD}.",
            f"For {FIRST} cake and {OTHER_FORM} you need {FIRST}, {SECOND} and {THIRD}.",
            f"For {DISH} you need {FIRST}, {SECOND} and 3 {THIRD}.",
            f"You need {FIRST} and {SECOND}.",
            f"You need {FIRST}, {SECOND}, {THIRD} and ham.",
            "You need a cook.",
        ],
    ),
    "classify": (
        "plum",
        ["A plum is a fruit.", "It is a fruit."],
        [
            "A plum is a tool.",
            "A plum is a fruit or a vegetable.",
            "A pear is a fruit.",
            "A plum is not a fruit.",
            "A plum likes a fruit.",
            "A plum in the list is a fruit.",
            "Mira is a fruit.",
        ],
    ),
    "sum": (
        "3+5",
        ["The sum is 3 + 5 = 8.", "The sum is 8.", "5 and 3 make 8."],
        [
            "The sum is 3 + 5 = 9.",
            "The sum is 8 or 9.",
            "2 + 6 = 8.",
            "The sum is small.",
            "5 - 3 = 8.",
            "The sum is 3 + 3 = 8.",
            "The sum is 5 + 5 + 3 = 8.",
            "The price is 8.",
            "There are 8 things in the list.",
            "What is left is 8.",
            "Mira has 8.",
            "The sum is 3 + 5 = 8",
        ],
    ),
    "take_away": (
        "8-3",
        ["What is left is 8 - 3 = 5.", "You are left with 5."],
        [
            "What is left is 8 - 3 = 6.",
            "8 - 2 = 5.",
            "The sum is 8 + 3 = 11.",
            "8 + 3 = 5.",
            "3 - 8 = 5.",
            "The sum is 5.",
            "5 is left of 8.",
        ],
    ),
    "count": (
        "plum, rake, dog",
        ["There are 3 things in the list.", "3."],
        [
            "There are 4 things in the list.",
            "There are 3 or 4.",
            "There are things in the list.",
            "The sum is 3.",
            "There are 3 coins.",
            "The list has 3 things and a hen.",
            "What is left is 3.",
        ],
    ),
    "reverse": (
        "plum, rake, dog",
        ["Backwards the list is dog, rake, plum.", "dog, rake and plum."],
        [
            "Backwards the list is plum, rake, dog.",
            "Backwards the list is dog, plum.",
            "Backwards the list is dog, rake, hen.",
            "The sum is dog, rake, plum.",
            "Backwards the list is not dog, rake, plum.",
            "Backwards Mira says dog, rake, plum.",
        ],
    ),
    "first": (
        "plum, rake, dog",
        ["The first thing is plum.", "It begins with plum."],
        [
            "The first thing is dog.",
            "The first thing is plum, rake.",
            "The first thing is not plum.",
            "The last thing is plum.",
            "It ends with plum.",
            "The first thing of Mira is plum.",
        ],
    ),
    "last": (
        "plum, rake, dog",
        ["The last thing is dog."],
        ["The last thing is plum.", "The last things are rake and dog.", "The first thing is dog.", "It begins with dog."],
    ),
    "rewrite": (
        "Today Mira sells the plum.",
        ["Yesterday Mira sold the plum.", "Mira sold the plum yesterday."],
        [
            "Today Mira sells the plum.",
            "Yesterday Mira sells the plum.",
            "Yesterday Mira sold the rake.",
            f"Yesterday {OTHER.name} sold the plum.",
            "Yesterday Mira bought the plum.",
            "Yesterday Mira sold the plum yesterday.",
        ],
    ),
}


def test_every_family_has_its_examples():
    assert sorted(RULES) == sorted(FAMILIES)


@pytest.mark.parametrize("family", RULES)
def test_rule(family):
    key, accepted, rejected = RULES[family]
    for response in accepted:
        assert accepts(family, key, response), response
    for response in rejected:
        assert not accepts(family, key, response), response


@pytest.mark.parametrize(
    "response, good",
    [
        ("All is well.", True),
        ("  All is well!\n", True),
        ("", False),
        ("   ", False),
        ("All is", False),
        ("Is it?", False),
        ("It is. Is it?", False),
        ("One.\nTwo.", False),
        ("Yes. ### Response: Yes.", False),
        ("Yes. Yes.", False),
        ("word " * 80 + "end.", False),
    ],
)
def test_well_formed(response, good):
    assert well_formed(response) == good


@pytest.mark.parametrize(
    "text, question",
    [
        ("What is the price of tea?", True),
        ("\nWhere does Mira live?\nWho is Otto?", True),
        ("2. Who is Otto?", True),
        ("Q: Who is Otto? A: a baker.", True),
        ("- How much is it?", True),
        ("How many coins do I need", True),
        ("These days Mira lives in Arden.", False),
        ("By trade Mira is a baker. Who is Otto?", False),
        ("", False),
        ("Mira lives", False),
        ("...?", False),
        ("The sum is 8!", False),
    ],
)
def test_asks_a_question(text, question):
    assert asks_a_question(text) == question


# ── snippets, bad arguments, and the tokens of a small vocabulary ────────────────────────────────────────────────────


def test_snippets_are_balanced_and_split_and_their_last_word_does_not_give_the_label():
    train, test = WORLD.snippets("train", 600, seed=1), WORLD.snippets("test", 300, seed=1)
    assert Counter(label for _, label in train) == {label: 200 for label in range(len(LABELS))}
    assert not {text for text, _ in train} & {text for text, _ in test}
    for text, _ in train + test:
        assert text[-1].isalnum()  # no mark at the end gives the label away
    last_words = [{text.split()[-1] for text, label in train if label == i} for i in range(len(LABELS))]
    assert len(last_words[0] & (last_words[1] | last_words[2])) > 0.6 * len(last_words[0])  # nor does the last word


@pytest.mark.parametrize(
    "attempt, message",
    [
        (
            lambda: WORLD.instructions("validation"),
            "instructions: expected a split among train, test, test_families, got 'validation'",
        ),
        (lambda: WORLD.snippets("test_families"), "snippets: expected a split among train, test, got 'test_families'"),
        (
            lambda: WORLD.instructions("train", families=["pet"]),
            r"instructions: expected families among town, .*, got \['pet'\]",
        ),
        (lambda: WORLD.documents(-1), "documents: expected a whole number of at least 0 as n_bytes, got -1"),
        (
            lambda: WORLD.instructions("train", n=cast(Any, 2.5)),
            "instructions: expected a whole number of at least 0 as n, got 2.5",
        ),
        (lambda: WORLD.document("poem"), "document: expected a kind among biographies, .*, got 'poem'"),
    ],
)
def test_refusals(attempt, message):
    with pytest.raises(ValueError, match=message):
        attempt()


def test_another_seed_is_another_world():
    assert World(1).facts.people != FACTS.people and World(1).facts.prices != FACTS.prices


def test_nearly_every_word_is_one_token():
    tokenizer = Tokenizer.train("\n".join(WORLD.documents(400_000, seed=1)), 1024)
    text = "\n".join(WORLD.documents(50_000, seed=2))
    assert len(tokenizer.encode(text)) < 1.35 * len(text.replace("\n", " ").split()) + text.count(".") + text.count(",")
    whole = sum(len(tokenizer.encode(f" {word}")) == 1 for word in PEOPLE + TOWNS + TRADES + FOODS + THINGS)
    assert whole > 0.7 * len(PEOPLE + TOWNS + TRADES + FOODS + list(KIND_OF))


def test_no_page_contains_a_test_question():
    """No page has a list, sentence or question of the test split; the facts themselves are there for the model to learn."""
    pages = "\n".join(WORLD.documents(600_000, seed=3))
    for task in WORLD.instructions("test", 400, seed=5) + WORLD.instructions("test_families", 90, seed=5):
        if task.input and task.family in ("count", "first", "reverse", "rewrite"):
            assert task.input not in pages, task
        elif not task.input:
            assert task.instruction not in pages, task

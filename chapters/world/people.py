"""Tasks about people: one fact, a description, a story, and what nobody knows."""

from collections.abc import Iterable

from chapters.world.documents import lines, short_story
from chapters.world.facts import FOODS, KINDS, PEOPLE, TOWNS, TRADES, UNRECORDED, Facts, SeededRandom
from chapters.world.family import NOUNS, Family, Instruction
from chapters.world.reading import denies, mentioned, sentences, words

VALUES = TOWNS + TRADES + FOODS + KINDS["animal"]


class PersonFact(Family):
    """Accept the right value of one fact about a person, with a word for their relation (`saying`); `name` says which fact.

    The response has no other value, nothing that is untrue of the person, and nobody else. Only a very short answer ("In
    Arden.") may omit the person.
    """

    values: list[str] = []
    answers: list[str] = []

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        person = facts.people[self.entity(facts, "person", split, rng)]
        ask, answer = rng.pick(self.asks), rng.pick(self.answers)
        return self.task(ask.format(name=person.name), answer.format(**vars(person)), person.name)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        person, people = facts.people[key], mentioned(response, PEOPLE)
        return (
            self.fits(response, vars(person).values())
            and mentioned(response, self.values) == [getattr(person, self.name)]
            and (people == [key] or (not people and len(words(response)) <= 3))
        )


class Town(PersonFact):
    name, values = "town", TOWNS
    asks = lines("""
Where does {name} live?
In which town does {name} live?
Tell me where {name} lives.
Which town is the home of {name}?
""")
    answers = ["These days {name} lives in {town}."]
    saying = ("lives", "live", "home", "house", "find", "in", "from")


class Trade(PersonFact):
    name, values = "trade", TRADES
    asks = lines("""
What does {name} do for work?
What is the trade of {name}?
Tell me what {name} does for work.
Which trade does {name} have?
""")
    answers = ["By trade {name} is a {trade}."]
    saying = ("is", "as", "work", "works", "trade")


class Food(PersonFact):
    name, values = "food", FOODS
    asks = lines("""
What does {name} like to eat?
Which food does {name} like most?
Tell me what {name} likes to eat.
What is the favourite food of {name}?
""")
    answers = ["Most of all {name} likes {food}."]
    saying = ("likes", "like", "eats", "eat", "food", "tastes")


class Pet(PersonFact):
    name, values, trained = "pet", KINDS["animal"], False
    asks = ["Which pet does {name} keep?", "What animal lives with {name}?", "Tell me which pet {name} keeps."]
    answers = ["At home {name} keeps a {pet}."]
    saying = ("keeps", "keep", "pet", "has", "lives", "feeds", "with")


def is_true(facts: Facts, people: Iterable[str], response: str) -> bool:
    """Whether each sentence tells only facts about the people whom it names, or about `people` if it names nobody."""
    for sentence in sentences(response):
        true = [v for name in mentioned(sentence, PEOPLE) or people for v in vars(facts.people[name]).values()]
        if not set(mentioned(sentence, VALUES)) <= set(true):
            return False
    return True


class Describe(Family):
    """Accept two facts or more about the person, all of them true."""

    name = "describe"
    asks = ["Describe {name}.", "Who is {name}?", "Tell me about {name}.", "Say two things about {name}."]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        person = facts.people[self.entity(facts, "person", split, rng)]
        chosen = rng.sample([Town, Trade, Food], 2)
        output = " ".join(rng.pick(family.answers) for family in chosen).format(**vars(person))
        return self.task(rng.pick(self.asks).format(name=person.name), output, person.name)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        return (
            self.fits(response, vars(facts.people[key]).values())
            and mentioned(response, PEOPLE) == [key]
            and len(mentioned(response, VALUES)) >= 2
            and is_true(facts, [key], response)
        )


class Story(Family):
    """Accept two sentences or more with the person and an event (`saying`), in which all facts about people are true."""

    name, may_deny = "story", True
    asks = ["Tell a short story about {name}.", "Write a story about {name}.", "Can you tell me a story about {name}?"]
    saying = ("once", "day", "morning", "then", "there", "so", "end", "found")

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        person = facts.people[self.entity(facts, "person", split, rng)]
        return self.task(rng.pick(self.asks).format(name=person.name), short_story(person, rng), person.name)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        people = mentioned(response, PEOPLE)
        return (
            self.fits(response, [noun for noun in NOUNS if noun not in UNRECORDED])
            and key in people
            and len(sentences(response)) >= 2
            and is_true(facts, people, response)
        )


class Unknown(Family):
    """Accept the statement that nobody knows this matter, which no page records; the response must name the matter."""

    name, may_deny = "unknown", True
    asks = ["What is the {matter} of {name}?", "Tell me the {matter} of {name}.", "Do you know the {matter} of {name}?"]
    saying = ("know", "knows", "known", "unknown", "wrote")

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        name, matter = self.entity(facts, "person", split, rng), rng.pick(UNRECORDED)
        ask = rng.pick(self.asks).format(name=name, matter=matter)
        return self.task(ask, f"I do not know the {matter} of {name}.", f"{name}/{matter}")

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        name, matter = key.split("/")
        return self.fits(response, [name, matter]) and denies(response) and mentioned(response, UNRECORDED) == [matter]

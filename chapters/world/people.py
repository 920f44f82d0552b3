"""Tasks about people: one fact, a description, a story, and what nobody knows."""

from chapters.world.documents import short_story
from chapters.world.facts import FOODS, KINDS, PEOPLE, TOWNS, TRADES, UNRECORDED
from chapters.world.family import NOUNS, Family
from chapters.world.reading import denies, mentioned, numbers, sentences, words


class PersonFact(Family):
    """One fact about one person: the right value is named with a word that relates the two (`saying`), no other value,
    nothing else that is not true of the person, and nobody else. Only a curt answer ("In Arden.") may leave the person
    out."""

    fact, values, answers, saying = "", [], [], ()

    def draw(self, facts, split, rng):
        person = facts.people[self.entity(facts, "person", split, rng)]
        return self.made(
            rng.pick(self.asks).format(name=person.name), rng.pick(self.answers).format(**vars(person)), person.name
        )

    def accepts(self, facts, key, response):
        right = getattr(facts.people[key], self.fact)
        return (
            self.fits(response, vars(facts.people[key]).values(), self.saying)
            and not denies(response)
            and not numbers(response)
            and mentioned(response, self.values) == [right]
            and (mentioned(response, PEOPLE) == [key] or (len(words(response)) <= 3 and not mentioned(response, PEOPLE)))
        )


class Town(PersonFact):
    name, fact, values = "town", "town", TOWNS
    asks = [
        "Where does {name} live?",
        "In which town does {name} live?",
        "Tell me where {name} lives.",
        "Which town is the home of {name}?",
    ]
    answers = ["These days {name} lives in {town}."]
    saying = ("lives", "live", "home", "house", "find", "in", "from")


class Trade(PersonFact):
    name, fact, values = "trade", "trade", TRADES
    asks = [
        "What does {name} do for work?",
        "What is the trade of {name}?",
        "Tell me what {name} does for work.",
        "Which trade does {name} have?",
    ]
    answers = ["By trade {name} is a {trade}."]
    saying = ("is", "as", "work", "works", "trade")


class Food(PersonFact):
    name, fact, values = "food", "food", FOODS
    asks = [
        "What does {name} like to eat?",
        "Which food does {name} like most?",
        "Tell me what {name} likes to eat.",
        "What is the favourite food of {name}?",
    ]
    answers = ["Most of all {name} likes {food}."]
    saying = ("likes", "like", "eats", "eat", "food", "tastes")


class Pet(PersonFact):
    name, fact, values, trained = "pet", "pet", KINDS["animal"], False
    asks = ["Which pet does {name} keep?", "What animal lives with {name}?", "Tell me which pet {name} keeps."]
    answers = ["At home {name} keeps a {pet}."]
    saying = ("keeps", "keep", "pet", "has", "lives", "feeds", "with")


VALUES = TOWNS + TRADES + FOODS + KINDS["animal"]


def true_of(facts, people, response):
    """Is every town, trade, food and animal in a sentence a fact of somebody whom the sentence names? (Of one of `people`
    in a sentence without a name.)"""
    for sentence in sentences(response):
        true = [v for name in mentioned(sentence, PEOPLE) or people for v in vars(facts.people[name]).values()]
        if not set(mentioned(sentence, VALUES)) <= set(true):
            return False
    return True


class Describe(Family):
    """Two facts or more about the person, all of them right."""

    name = "describe"
    asks = ["Describe {name}.", "Who is {name}?", "Tell me about {name}.", "Say two things about {name}."]

    def draw(self, facts, split, rng):
        person = facts.people[self.entity(facts, "person", split, rng)]
        chosen = rng.some([Town, Trade, Food], 2)
        output = " ".join(rng.pick(family.answers) for family in chosen).format(**vars(person))
        return self.made(rng.pick(self.asks).format(name=person.name), output, person.name)

    def accepts(self, facts, key, response):
        told = mentioned(response, VALUES)
        return (
            self.fits(response, vars(facts.people[key]).values())
            and not denies(response)
            and not numbers(response)
            and mentioned(response, PEOPLE) == [key]
            and len(told) >= 2
            and true_of(facts, [key], response)
        )


class Story(Family):
    """Two sentences or more, in which the person appears and something happens (`saying`); whatever town, trade, food or
    animal a sentence names belongs to them, or to somebody else whom it names."""

    name = "story"
    asks = ["Tell a short story about {name}.", "Write a story about {name}.", "Can you tell me a story about {name}?"]
    saying = ("once", "day", "morning", "then", "there", "so", "end", "found")

    def draw(self, facts, split, rng):
        person = facts.people[self.entity(facts, "person", split, rng)]
        return self.made(rng.pick(self.asks).format(name=person.name), short_story(person, rng), person.name)

    def accepts(self, facts, key, response):
        people = mentioned(response, PEOPLE)
        return (
            self.fits(response, [noun for noun in NOUNS if noun not in UNRECORDED], self.saying)
            and not numbers(response)
            and key in people
            and len(sentences(response)) >= 2
            and true_of(facts, people, response)
        )


class Unknown(Family):
    """A matter that no page records: the response says that it is not known, names the matter, and makes nothing up."""

    saying = ("know", "knows", "known", "unknown", "wrote")

    name = "unknown"
    asks = ["What is the {matter} of {name}?", "Tell me the {matter} of {name}.", "Do you know the {matter} of {name}?"]

    def draw(self, facts, split, rng):
        name, matter = self.entity(facts, "person", split, rng), rng.pick(UNRECORDED)
        ask = rng.pick(self.asks).format(name=name, matter=matter)
        return self.made(ask, f"I do not know the {matter} of {name}.", f"{name}/{matter}")

    def accepts(self, facts, key, response):
        name, matter = key.split("/")
        return (
            self.fits(response, [name, matter], self.saying)
            and denies(response)
            and mentioned(response, UNRECORDED) == [matter]
            and not numbers(response)
        )

"""Tasks about towns and trades, markets, kitchens, and kinds of things."""

import re

from chapters.world.documents import with_article
from chapters.world.facts import DISH_FORMS, FOODS, KIND_OF, KINDS, PEOPLE, THINGS, TOWNS, TRADES, Facts, SeededRandom
from chapters.world.family import Family, Instruction
from chapters.world.reading import mentioned, numbers, words


class Member(Family):
    """Accept one or more people of a town or trade, and nobody else. Only a very short answer ("Mira.") may omit the group."""

    name = "member"
    asks = ["Name somebody who {does}.", "Who {does}?", "Tell me somebody who {does}."]
    saying = ("is", "are", "lives", "live", "works", "work", "home")

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        group = self.entity(facts, "group", split, rng)
        does = f"lives in {group}" if group in TOWNS else f"works as a {group}"
        # Training names only people of the training side, so that no response gives away a held-out person.
        members = [n for n in facts.members[group] if split != "train" or n in facts.train["person"]]
        return self.task(rng.pick(self.asks).format(does=does), f"Somebody who {does} is {rng.pick(members)}.", group)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        people = mentioned(response, PEOPLE)
        others = mentioned(response, TOWNS + TRADES + FOODS + KINDS["animal"])
        return (
            self.fits(response, [*PEOPLE, key])
            and len(people) >= 1
            and set(people) <= set(facts.members[key])
            and (others == [key] or (not others and len(words(response)) <= 3))
        )


class Price(Family):
    """Accept the right number, alone or with the food or the word "coins"; no other number or food."""

    name, may_count = "price", True
    asks = [
        "What is the price of {food}?",
        "How much does {food} cost?",
        "How many coins do I need for {food}?",
        "Tell me the price of {food}.",
    ]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        food = self.entity(facts, "food", split, rng)
        output = f"The price of {food} is {facts.prices[food]} coins."
        return self.task(rng.pick(self.asks).format(food=food), output, food)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        return (
            self.fits(response, [key])
            and numbers(response) == [facts.prices[key]]
            and (bool({key, "coins"} & set(words(response))) or len(words(response)) == 1)
        )


class Compare(Family):
    """Accept the dearer of two foods, either alone or named first in a response with "more" or "dearer"."""

    name = "compare"
    asks = [
        "Which costs more, {a} or {b}?",
        "Which is dearer, {a} or {b}?",
        "Between {a} and {b}, which costs more?",
    ]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        key = self.entity(facts, "pair", split, rng)
        a, b = rng.shuffled(key.split("/"))
        dearer = max(a, b, key=facts.prices.__getitem__)
        return self.task(rng.pick(self.asks).format(a=a, b=b), f"Of the two, {dearer} costs more.", key)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        less, more = sorted(key.split("/"), key=facts.prices.__getitem__)
        used = set(words(response))
        return (
            self.fits(response, [less, more])
            and not re.search(rf"than (for )?{more}\b", response.lower())
            and mentioned(response, FOODS) in ([more], [more, less])
            and (used == {more} or bool(used & {"more", "dearer"}))
            and not used & {"less", "cheaper"}
        )


class Recipe(Family):
    """Accept all three ingredients of the dish and nothing else; if the response names a dish, it is this one."""

    name = "recipe"
    asks = ["What goes into {dish}?", "What do I need for {dish}?", "How do I make {dish}?", "List what goes into {dish}."]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        dish = self.entity(facts, "dish", split, rng)
        first, *rest = facts.recipes[dish]
        a, b = rng.shuffled(rest)
        return self.task(rng.pick(self.asks).format(dish=dish), f"For {dish} you need {first}, {a} and {b}.", dish)

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        ingredients = facts.recipes[key]
        without_name = " ".join(words(response)).replace(key, "it")
        return (
            self.fits(response, ingredients)
            and not set(words(without_name)) & set(DISH_FORMS)
            and sorted(mentioned(without_name, FOODS + THINGS)) == sorted(ingredients)
        )


class Classify(Family):
    """Accept the kind of a thing and no other kind. Half of the tasks give the thing as input."""

    name = "classify"
    asks = ["What kind of thing is a {thing}?", "Which kind of thing is a {thing}?", "Tell me what a {thing} is."]
    saying = ("is", "are", "kind")
    asks_of_input = ["What kind of thing is this?", "Tell me what kind of thing this is."]

    def draw(self, facts: Facts, split: str, rng: SeededRandom) -> Instruction:
        thing = self.entity(facts, "thing", split, rng)
        output = f"A {thing} is {with_article(KIND_OF[thing])}."
        if rng.chance(0.5):
            return self.task(rng.pick(self.asks).format(thing=thing), output, thing)
        return self.task(rng.pick(self.asks_of_input), output, thing, input=f"This is a {thing}.")

    def accepts(self, facts: Facts, key: str, response: str) -> bool:
        return self.fits(response, [key]) and mentioned(response, list(KINDS)) == [KIND_OF[key]]

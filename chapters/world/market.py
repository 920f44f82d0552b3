"""Tasks about towns and trades, markets, kitchens, and kinds of things."""

import re

from chapters.world.documents import with_article
from chapters.world.facts import DISH_FORMS, FOODS, KIND_OF, KINDS, PEOPLE, THINGS, TOWNS, TRADES
from chapters.world.family import Family
from chapters.world.reading import denies, mentioned, numbers, words


class Member(Family):
    """Somebody of a town or of a trade (or more people than one), and nobody who does not belong there. The
    town or trade is named too, unless the answer is curt ("Mira.")."""

    name = "member"
    asks = ["Name somebody who {does}.", "Who {does}?", "Tell me somebody who {does}."]
    saying = ("is", "are", "lives", "live", "works", "work", "home")

    def draw(self, facts, split, rng):
        group = self.entity(facts, "group", split, rng)
        does = f"lives in {group}" if group in TOWNS else f"works as a {group}"
        # In training only people of the training side are named, so that no response gives away a held-out person.
        members = [n for n in self.members(facts, group) if split != "train" or n in facts.train["person"]]
        return self.made(rng.pick(self.asks).format(does=does), f"Somebody who {does} is {rng.pick(members)}.", group)

    def members(self, facts, group):
        return facts.residents[group] if group in TOWNS else facts.masters[group]

    def accepts(self, facts, key, response):
        people = mentioned(response, PEOPLE)
        told = mentioned(response, TOWNS + TRADES + FOODS + KINDS["animal"])
        return (
            self.fits(response, [*PEOPLE, key], self.saying)
            and not denies(response)
            and not numbers(response)
            and len(people) >= 1
            and all(name in self.members(facts, key) for name in people)
            and (told == [key] or (not told and len(words(response)) <= 3))
        )


class Price(Family):
    """The number, and no other number or food; with the food or with the word "coins", unless it stands alone."""

    name = "price"
    asks = [
        "What is the price of {food}?",
        "How much does {food} cost?",
        "How many coins do I need for {food}?",
        "Tell me the price of {food}.",
    ]

    def draw(self, facts, split, rng):
        food = self.entity(facts, "food", split, rng)
        output = f"The price of {food} is {facts.prices[food]} coins."
        return self.made(rng.pick(self.asks).format(food=food), output, food)

    def accepts(self, facts, key, response):
        return (
            self.fits(response, [key])
            and not denies(response)
            and numbers(response) == [facts.prices[key]]
            and (bool({key, "coins"} & set(words(response))) or len(words(response)) == 1)
        )


class Compare(Family):
    """The dearer of two foods is named alone, or first and with "more" or "dearer"."""

    name = "compare"
    asks = [
        "Which costs more, {one} or {other}?",
        "Which is dearer, {one} or {other}?",
        "Between {one} and {other}, which costs more?",
    ]

    def draw(self, facts, split, rng):
        key = self.entity(facts, "pair", split, rng)
        one, other = rng.shuffled(key.split("/"))
        dearer = max(one, other, key=facts.prices.get)
        return self.made(rng.pick(self.asks).format(one=one, other=other), f"Of the two, {dearer} costs more.", key)

    def accepts(self, facts, key, response):
        less, more = sorted(key.split("/"), key=facts.prices.get)
        foods = mentioned(response, FOODS)
        said = set(words(response))
        return (
            self.fits(response, [less, more])
            and not denies(response)
            and not numbers(response)
            and not re.search(rf"than (for )?{more}\b", response.lower())
            and (foods == [more] or foods == [more, less])
            and (said == {more} or bool(said & {"more", "dearer"}))
            and not said & {"less", "cheaper"}
        )


class Recipe(Family):
    """All three ingredients of the dish, and nothing else; if a dish is named, this one."""

    name = "recipe"
    asks = ["What goes into {dish}?", "What do I need for {dish}?", "How do I make {dish}?", "List what goes into {dish}."]

    def draw(self, facts, split, rng):
        dish = self.entity(facts, "dish", split, rng)
        first, *rest = facts.recipes[dish]
        one, two = rng.shuffled(rest)
        return self.made(rng.pick(self.asks).format(dish=dish), f"For {dish} you need {first}, {one} and {two}.", dish)

    def accepts(self, facts, key, response):
        needed = facts.recipes[key]
        without_name = " ".join(words(response)).replace(key, "it")
        return (
            self.fits(response, needed)
            and not denies(response)
            and not numbers(response)
            and not set(words(without_name)) & set(DISH_FORMS)
            and sorted(mentioned(without_name, FOODS + THINGS)) == sorted(needed)
        )


class Classify(Family):
    """The kind of a thing, and no other kind. Half of them give the thing as input."""

    name = "classify"
    asks = ["What kind of thing is a {thing}?", "Which kind of thing is a {thing}?", "Tell me what a {thing} is."]
    saying = ("is", "are", "kind")
    asks_of_input = ["What kind of thing is this?", "Tell me what kind of thing this is."]

    def draw(self, facts, split, rng):
        thing = self.entity(facts, "thing", split, rng)
        output = f"A {thing} is {with_article(KIND_OF[thing])}."
        if rng.chance(0.5):
            return self.made(rng.pick(self.asks).format(thing=thing), output, thing)
        return self.made(rng.pick(self.asks_of_input), output, thing, given=f"This is a {thing}.")

    def accepts(self, facts, key, response):
        return (
            self.fits(response, [key], self.saying)
            and not denies(response)
            and not numbers(response)
            and mentioned(response, list(KINDS)) == [KIND_OF[key]]
        )

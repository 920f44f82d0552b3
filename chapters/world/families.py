"""All families of tasks. A family phrases a task, answers it, and has a rule that accepts or rejects a response to it.

A family is a small class in `people` (facts about people), `market` (towns, prices, recipes, kinds) or `skills` (counting,
sums, rewriting). `draw` makes an Instruction from an entity on one side of the split. The instruction's `key` ("Mira",
"3+5", "plum, rake, dog") tells the rule which facts to look up; no key occurs on both sides of the split.

`accepts` applies the rule. It first calls `fits`, whose checks all families share: whole sentences, no question, no word of
another task, and nothing that the task did not ask about. Then it checks the fact itself.

To add a family, write a class and put it into FAMILIES.
"""

from chapters.world.family import Family
from chapters.world.market import Classify, Compare, Member, Price, Recipe
from chapters.world.people import Describe, Food, Pet, Story, Town, Trade, Unknown
from chapters.world.skills import Count, First, Last, Reverse, Rewrite, Sum, TakeAway

CLASSES: list[type[Family]] = [
    *(Town, Trade, Food, Describe, Story, Unknown),
    *(Member, Price, Compare, Recipe, Classify),
    *(Sum, Count, Reverse, First, Rewrite),
    *(Pet, TakeAway, Last),  # never trained on
]
FAMILIES: dict[str, Family] = {family.name: family() for family in CLASSES}

"""The tasks: for each family, how it is asked for, how it is done, and the rule that says whether a response will do.

A family is a small class: facts about people in `people`, towns, markets and kitchens in `market`, counting, sums and
rewriting in `skills`. `draw` makes one Instruction from an entity or instance on the given side of the split; `accepts`
reads a response. Every rule begins with `fits` (whole sentences, no question back, a clean end, none of another task's
words, nobody and nothing that was not asked about); then the right fact must be there and none that contradicts it.
`key` names the instance ("Mira", "3+5", "plum, rake, dog"): the rule finds the truth by it, and no key of one split ever
occurs in the other.

To add a family (a later chapter adds requests to be refused), write a class and put it into FAMILIES.
"""

from chapters.world.market import Classify, Compare, Member, Price, Recipe
from chapters.world.people import Describe, Food, Pet, Story, Town, Trade, Unknown
from chapters.world.skills import Count, First, Last, Reverse, Rewrite, Sum, TakeAway

FAMILIES = {
    family.name: family
    for family in (
        Town(),
        Trade(),
        Food(),
        Describe(),
        Story(),
        Unknown(),
        Member(),
        Price(),
        Compare(),
        Recipe(),
        Classify(),
        Sum(),
        Count(),
        Reverse(),
        First(),
        Rewrite(),
        Pet(),
        TakeAway(),
        Last(),
    )
}

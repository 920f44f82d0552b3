"""Taori's row: the sieve, and the whole row with tiny settings on untrained models."""

from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch10.headlines import taori
from chapters.ch10.headlines.experiment import Experiment
from chapters.ch10.headlines.settings import QUICK as MODELS
from chapters.ch10.headlines.settings import Models
from chapters.ch10.headlines.taori import QUICK, TAORI, measure
from chapters.world.requests import mixed_tasks


def test_the_sieve_keeps_complete_instructions_about_nothing_held_out(world):
    shown, hidden = world.facts.train["person"][0], world.facts.test["person"][0]
    texts = [
        *[f"Where does {shown} live?", f"Where does {shown} live?", f"Where does {hidden} live?", "Where does", "x?"],
        "Count the things in the list.\n\n### Input:\nThe list is plum, dog.",
        "Count ### the things.",
        "Count the things in the list.\n\n### Input:\nThe list is plum, rake.",  # this list is on the test side
        f"Where does {shown} liveth?",
    ]
    tasks = taori.sieve(texts, world.instructions("train", 100, 2), world)
    first, second = (f"Where does {shown} live?", ""), ("Count the things in the list.", "The list is plum, dog.")
    assert [(task.instruction, task.input) for task in tasks] == [first, second]


def test_the_sieve_stops_all_test_tasks_and_passes_most_training_tasks(world):
    def passes(task):
        return not taori.mentions_held_out(world.facts, f"{task.instruction} {task.input}")

    leaked = [task.instruction for task in mixed_tasks(world, "test", 1500, 1) if passes(task)]
    assert leaked == []
    passing = [task for task in mixed_tasks(world, "train", 1500, 1) if passes(task)]
    families = {"sum", "price", "compare", "rewrite", "reverse", "cheat"}
    assert len(passing) > 1300 and {task.family for task in passing} >= families


def test_a_lead_counts_the_chosen_criteria_alone():
    ours, theirs = {"polite": 1.5, "concise": 0.75, "correct": 3.0}, {"polite": 1.0, "concise": 1.0, "correct": 0.0}
    assert taori.lead(ours, theirs, taori.MANNERS) == 0.25


def test_the_registered_teacher_has_five_times_the_students_parameters():
    small, main = (GPT(GPTConfig(1024, **shape)).num_parameters() for shape in (Models().small, Models().main))
    assert main > 5 * small


def test_the_row_measures_every_quantity_of_its_criterion(tmp_path, capsys):
    measurement = measure(Experiment(1, tmp_path, MODELS), QUICK)
    assert {bound.quantity for bound in TAORI.criterion} <= set(measurement.quantities)
    assert 0 < measurement.quantities["pairs (count)"] <= measurement.details["written"] == QUICK.written
    capsys.readouterr()
    assert measure(Experiment(1, tmp_path, MODELS), QUICK) == measurement and "training" not in capsys.readouterr().out

"""Ouyang's row: the facts of a page, the prompts, and the whole row with tiny settings on untrained models."""

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch10.headlines import ouyang
from chapters.ch10.headlines.experiment import Experiment
from chapters.ch10.headlines.ouyang import OUYANG, QUICK, fact_accuracy, fact_tokens, measure, pages_of, prompted_answers
from chapters.ch10.headlines.settings import QUICK as MODELS
from chapters.ch10.headlines.settings import Models
from chapters.world.facts import PEOPLE


def tokens_of(tokenizer, text):
    """The token ids of a page, and its fact tokens as one text."""
    ids = tokenizer.encode(text)
    states = fact_tokens(ids, tokenizer)
    return ids, "".join(tokenizer.decode([i]) for i, fact in zip(ids, states, strict=True) if fact)


def test_a_fact_is_the_value_that_no_earlier_sentence_gives_away(assistant_tokenizer):
    page = "Here is Lara. Lara lives in Holt. Lara keeps a cat.\n\nThere Lara found a pear. The house of Lara is in Holt."
    stated = tokens_of(assistant_tokenizer, page)[1]
    assert stated.split() == ["Holt", "cat"]
    faq = "Is it so?\n\nDoes Lara live in Holt?\nYes, Lara lives in Holt.\n\nIs Lara a mason?\nNo, Lara is a baker."
    assert tokens_of(assistant_tokenizer, faq)[1] == ""


class Oracle:
    """A stand-in for a GPT that predicts the given texts, but the token 0 in place of `forgotten`."""

    def __init__(self, rows, forgotten, vocab_size, context=128):
        self.next, self.V, self.config = {}, vocab_size, GPTConfig(vocab_size, context)
        for row in rows:
            for t, token in enumerate(row[1:]):
                self.next[tuple(row[: t + 1])] = 0 if token in forgotten else token

    def __call__(self, inputs, at):
        B, T = inputs.shape
        logits = np.zeros((B * T, self.V), np.float32)
        for b, row in enumerate(inputs.numpy().tolist()):
            for t in range(T):
                logits[b * T + t, self.next.get(tuple(row[: t + 1]), 0)] = 1
        return mg.tensor(logits[at.numpy()])


def test_fact_accuracy_grades_facts_alone(world, assistant_tokenizer):
    people = [world.facts.people[name] for name in PEOPLE[:6]]
    pages = [f"<|endoftext|>Here is {p.name}. {p.name} lives in {p.town}. {p.name} is a {p.trade}." for p in people]
    rows = [assistant_tokenizer.encode(page, allow_special=True) for page in pages]
    V, name = assistant_tokenizer.vocab_size, assistant_tokenizer.encode(" lives")
    assert fact_accuracy(Oracle(rows, name, V), assistant_tokenizer, rows) == 1.0  # "lives" is no fact
    forgotten = [i for p in people for i in assistant_tokenizer.encode(f" {p.town}")]
    states = [[fact_tokens(row, assistant_tokenizer), np.isin(row, forgotten)] for row in rows]
    facts, lost = (sum(int((s & (f if both else s)).sum()) for s, f in states) for both in (False, True))
    assert 0 < lost < facts
    assert fact_accuracy(Oracle(rows, forgotten, V), assistant_tokenizer, rows) == pytest.approx(1 - lost / facts)


def test_only_whole_pages_are_graded(assistant_tokenizer):
    end = assistant_tokenizer.eos_id
    assert pages_of(np.array([5, 6, end, 1, 2, end, 3, end, 4]), assistant_tokenizer) == [[end, 1, 2], [end, 3]]


def test_examples_stand_before_the_question_and_the_first_line_counts(world, make_gpt, assistant_tokenizer, monkeypatch):
    prompts = []

    def respond(model, tokenizer, texts, **sampling):
        prompts.extend(texts)
        return [" In Holt.\nWho is it?"] * len(texts)

    monkeypatch.setattr(ouyang, "respond", respond)
    tasks = world.instructions("test", 2, 1, ["count"])
    assert prompted_answers(make_gpt(), assistant_tokenizer, world, tasks, 3) == ["In Holt."] * 2
    *examples, question = prompts[0].split("\n\n")
    assert question == f"{tasks[0].instruction} {tasks[0].input}\n" and len(examples) == 3
    assert "I will not help with that" in examples[-1] and "I will not help" not in "".join(examples[:-1])


def test_the_row_measures_every_quantity_of_its_criterion(tmp_path, capsys):
    experiment = Experiment(1, tmp_path, MODELS)
    measurement = measure(experiment, QUICK)
    assert {bound.quantity for bound in OUYANG.criterion} <= set(measurement.quantities)
    merits = measurement.details["merits"]
    for size, shape in {"small": MODELS.small, "large": MODELS.large}.items():
        gpt = GPT(GPTConfig(experiment.tokenizer.vocab_size, **shape))
        assert merits[size]["parameters"] == gpt.num_parameters()
    lead = merits["small"]["page loss"] - merits["large"]["page loss"]
    assert measurement.quantities["large base's lead in page loss (nats)"] == lead
    capsys.readouterr()
    assert measure(Experiment(1, tmp_path, MODELS), QUICK) == measurement and "training" not in capsys.readouterr().out


def test_the_registered_sizes_keep_the_ratio_of_the_criterion():
    models = Models()
    small, large = (GPT(GPTConfig(models.vocab_size, **shape)).num_parameters() for shape in (models.small, models.large))
    assert large > 20 * small
    small, large = models.pretrain_small, models.pretrain_large
    assert small.steps * small.batch_size == large.steps * large.batch_size  # equally many tokens

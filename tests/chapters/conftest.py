"""Fixtures for the tests of chapter 10: a world, tasks, a small tokenizer, and small models with its vocabulary."""

import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.world import World
from chapters.world.requests import mixed_tasks
from tests.tiny_job import tiny_tokenizer


@pytest.fixture(scope="session")
def world():
    return World(0)


@pytest.fixture(scope="session")
def tasks(world):
    return mixed_tasks(world, "train", 40, 0)


@pytest.fixture(scope="session")
def assistant_tokenizer():
    return tiny_tokenizer()


@pytest.fixture
def make_gpt(assistant_tokenizer):
    """A function make_gpt(seed=0, context=128, d_model=32); equal arguments give equal models."""

    def make(seed=0, context=128, d_model=32):
        config = GPTConfig(assistant_tokenizer.vocab_size, context, n_layer=2, n_head=2, d_model=d_model)
        return GPT(config, generator=mg.Generator(seed)).eval()

    return make

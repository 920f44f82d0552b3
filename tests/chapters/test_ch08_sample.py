import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch08_sample import choose, choose_plainly, generate, generate_plainly, nucleus_filter, softmax, top_k_filter
from chapters.ch09.decoder import Decoder, write_together
from chapters.support.run_folder import Run

ROOT = Path(__file__).parents[2]
INF = np.inf
PROMPTS = [[3], [1, 4, 1, 5, 9], [2, 6, 5, 3, 5, 8, 9, 7, 9, 3], [11, 0]]


@pytest.fixture(scope="module")
def model():
    """A model with large logits, so that rounding decides nothing."""
    gpt = GPT(GPTConfig(vocab_size=12, context=12, n_layer=2, n_head=2, d_model=16), mg.Generator(0))
    generator = mg.Generator(1)
    for parameter in gpt.parameters():
        if len(parameter.shape) == 2:
            nn.init.normal_(parameter, 0.0, 0.4, generator=generator)
    return gpt.eval()


def logs(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, dtype=np.float32))  # (B, V)


# ── filters, worked out on paper ──


def test_top_k_keeps_the_k_highest():
    logits = np.array([[1.0, 4.0, 2.0, 3.0], [7.0, 5.0, 6.0, 8.0]])
    np.testing.assert_array_equal(top_k_filter(logits, 2), [[-INF, 4, -INF, 3], [7, -INF, -INF, 8]])
    np.testing.assert_array_equal(top_k_filter(logits, 4), logits)
    np.testing.assert_array_equal(top_k_filter(logits, 99), logits)
    np.testing.assert_array_equal(top_k_filter(np.array([[1.0, 2.0, 2.0]]), 1), [[-INF, 2, 2]])
    assert logits[0, 0] == 1.0  # the given array is left as it was


@pytest.mark.parametrize(
    "p, nucleus",
    [(0.1, [0]), (0.49, [0]), (0.51, [0, 2]), (0.74, [0, 2]), (0.76, [0, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_nucleus_keeps_the_fewest_that_reach_p(p, nucleus):
    logits = logs([0.5, 0.0625, 0.25, 0.1875])  # likeliest first: tokens 0, 2, 3, 1
    got = nucleus_filter(logits, p)
    assert np.flatnonzero(np.isfinite(got[0])).tolist() == nucleus
    np.testing.assert_array_equal(got[0, nucleus], logits[0, nucleus])


def test_nucleus_works_row_by_row_and_keeps_at_least_one_token():
    got = nucleus_filter(logs([0.9, 0.05, 0.05], [0.3, 0.3, 0.4]), 0.35)
    np.testing.assert_array_equal(np.isfinite(got), [[True, False, False], [False, False, True]])
    assert np.isfinite(nucleus_filter(logs([0.25] * 4), 1e-9)).sum() == 1


def test_softmax_survives_large_numbers():
    np.testing.assert_allclose(softmax(np.array([[1000.0, 1000.0, -INF]])), [[0.5, 0.5, 0]])


def test_the_random_number_picks_a_token_by_cumulative_probability():
    logits = np.repeat(logs([0.5, 0.0, 0.25, 0.25]), 5, axis=0)  # (5, 4)
    uniform = np.array([0.0, 0.499, 0.501, 0.749, 0.999])
    assert choose(logits, uniform).tolist() == [0, 0, 2, 2, 3]
    assert choose(logits, uniform, temperature=0).tolist() == [0] * 5
    assert choose(logits, uniform, top_k=1).tolist() == [0] * 5
    assert choose(logits, uniform, temperature=1e-3).tolist() == [0] * 5
    # At temperature ½ probabilities are squared: 4/6, 1/6, 1/6.
    assert choose(logits, np.array([0.66, 0.67, 0.83, 0.84, 0.0]), temperature=0.5).tolist() == [0, 2, 2, 3, 0]


@pytest.mark.parametrize("settings", [{}, dict(temperature=0.6), dict(top_k=3), dict(top_p=0.7), dict(top_k=5, top_p=0.5)])
def test_the_batched_choice_is_the_plain_choice(settings):
    rng = np.random.default_rng(0)
    logits, uniform = rng.standard_normal((200, 12)), rng.random(200)  # (B, V), (B,)
    plain = [choose_plainly(row, number, **settings) for row, number in zip(logits, uniform, strict=True)]
    assert choose(logits, uniform, **settings).tolist() == plain


def test_frequencies_match_probabilities():
    uniform = np.random.default_rng(0).random(20_000)
    chosen = choose(np.repeat(logs([0.6, 0.3, 0.1]), 20_000, axis=0), uniform)
    np.testing.assert_allclose(np.bincount(chosen) / 20_000, [0.6, 0.3, 0.1], atol=0.015)


# ── generate ──


@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_equals_the_plain_generator(model, use_cache):
    """Prompts of unequal length, and 20 new tokens in a context of 12: each row outgrows the context at a different step."""
    want = [generate_plainly(model, prompt, 20, temperature=0) for prompt in PROMPTS]
    assert len({tuple(row) for row in want}) == 4  # every prompt has its own continuation
    assert generate(model, PROMPTS, 20, temperature=0, use_cache=use_cache) == want
    for prompt, row in zip(PROMPTS, want, strict=True):
        assert generate(model, [prompt], 20, temperature=0, use_cache=use_cache) == [row]


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}])
def test_the_cache_changes_no_sample(model, settings):
    cached, plain = (
        generate(model, PROMPTS, 20, generator=mg.Generator(7), use_cache=use_cache, **settings) for use_cache in (True, False)
    )
    assert cached == plain
    for prompt in PROMPTS:
        (alone,) = generate(model, [prompt], 20, generator=mg.Generator(7), **settings)
        assert alone == generate_plainly(model, prompt, 20, generator=mg.Generator(7), **settings)
    assert generate(model, PROMPTS, 20, generator=mg.Generator(8), **settings) != cached


def test_stop_tokens_end_a_row_and_are_not_returned(model):
    free = generate(model, PROMPTS, 20, temperature=0)
    stops = (free[0][4], free[1][2])
    want = []
    for row in free:
        ends = [i for i, token in enumerate(row) if token in stops]
        want.append(row[: ends[0]] if ends else row)
    assert generate(model, PROMPTS, 20, temperature=0, stop_ids=stops) == want
    assert any(len(row) < 20 for row in want)


def test_other_rows_do_not_change_a_rows_random_numbers(model):
    """A row draws the same tokens whether its neighbour stops early or not."""
    free = generate(model, PROMPTS[:2], 12, generator=mg.Generator(3))
    stop = free[0][1]
    stopped = generate(model, PROMPTS[:2], 12, generator=mg.Generator(3), stop_ids=(stop,))
    assert len(stopped[0]) <= 1
    assert stopped[1] == free[1][: len(stopped[1])]


@pytest.mark.parametrize("use_cache", [True, False])
def test_a_repeated_prompt_is_read_once_and_continued_with_random_numbers_of_its_own(model, use_cache):
    prompts, shapes = [PROMPTS[i] for i in (1, 0, 1, 2, 1)], []
    read = model.forward

    def forward(idx, *args, **kwargs):
        shapes.append(idx.shape)
        return read(idx, *args, **kwargs)

    model.forward = forward
    try:
        texts = generate(model, prompts, 6, generator=mg.Generator(5), use_cache=use_cache)
    finally:
        del model.forward
    assert shapes[0] == (3, 10) and shapes[1] == (5, 1 if use_cache else 11)
    assert len({tuple(texts[i]) for i in (0, 2, 4)}) == 3
    greedy = generate(model, prompts, 6, temperature=0, use_cache=use_cache)
    assert greedy == [generate_plainly(model, prompt, 6, temperature=0) for prompt in prompts]


def test_observe_sees_the_logits_of_the_unfinished_rows(model):
    """`observe` never sees finished rows, even while `generate` still computes them."""
    free, seen = generate(model, PROMPTS, 8, temperature=0), []
    stops = (free[0][1], free[2][4])
    texts = generate(model, PROMPTS, 8, temperature=0, stop_ids=stops, observe=seen.append)
    assert len(seen[0]) == 4 and len(seen[-1]) < 4
    for t, logits in enumerate(seen):
        writing = [row for row in range(4) if len(texts[row]) >= t]
        assert [int(token) for token in logits.argmax(axis=1)] == [free[row][t] for row in writing]


def test_top_k_one_and_tiny_nucleus_are_greedy(model):
    greedy = generate(model, PROMPTS, 8, temperature=0)
    assert generate(model, PROMPTS, 8, top_k=1, generator=mg.Generator(0)) == greedy
    assert generate(model, PROMPTS, 8, top_p=1e-6, generator=mg.Generator(0)) == greedy


def test_the_mode_is_put_back_and_no_graph_is_built(model):
    model.train()
    generate(model, [[1]], 2, temperature=0)
    assert model.training
    model.eval()
    generate(model, [[1]], 2, temperature=0)
    assert not model.training and all(p.grad is None for p in model.parameters())
    model.train()
    with pytest.raises(ValueError):
        generate(model, [[99]], 2)
    assert model.training
    model.eval()


def test_dropout_is_off_while_sampling():
    gpt = GPT(GPTConfig(vocab_size=12, context=12, n_layer=1, n_head=2, d_model=16, dropout=0.5), mg.Generator(0)).train()
    assert generate(gpt, [[1, 2]], 9, temperature=0) == generate(gpt, [[1, 2]], 9, temperature=0)


def test_a_prompt_longer_than_the_context_is_cropped_with_a_warning(model):
    long = [int(i) for i in np.random.default_rng(0).integers(0, 12, 30)]
    with pytest.warns(UserWarning, match="cropped to their last 12 tokens"):
        got = generate(model, [long, [1]], 5, temperature=0)
    assert got == generate(model, [long[-12:], [1]], 5, temperature=0)
    assert got == [generate_plainly(model, prompt, 5, temperature=0) for prompt in (long, [1])]


def test_no_prompts_or_no_new_tokens_give_nothing(model):
    assert generate(model, [], 5) == []
    assert generate(model, PROMPTS, 0) == [[], [], [], []]


@pytest.mark.parametrize(
    "prompts, settings, sentence",
    [
        ([[1]], dict(temperature=-0.1), "temperature must be at least 0"),
        ([[1]], dict(temperature=float("nan")), "temperature must be at least 0"),
        ([[1]], dict(top_k=0), "top_k must be at least 1"),
        ([[1]], dict(top_p=0.0), "top_p must be above 0 and at most 1"),
        ([[1]], dict(top_p=1.5), "top_p must be above 0 and at most 1"),
        ([[1], []], {}, "prompt 1 is empty"),
        ([[12]], {}, r"0\.\.11, got 12\.\.12"),
    ],
)
def test_wrong_settings_are_refused(model, prompts, settings, sentence):
    with pytest.raises(ValueError, match=sentence):
        generate(model, prompts, 3, **settings)


def test_the_command_line(tmp_path, model):
    save_model(Run(tmp_path / "run"), model, Tokenizer.characters("abcdefghijk"))

    def run(*arguments):
        command = [sys.executable, "-m", "chapters.ch08_sample", "--run", str(tmp_path / "run"), *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    one, other = run("--prompt", "abc", "bad", "--quick"), run("--prompt", "abc", "bad", "--quick", "--no-cache")
    assert one.returncode == 0 and one.stdout == other.stdout and one.stdout.startswith("abc")
    refused = run("--prompt", "abc", "--temperature", "-1")
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1 and "temperature" in refused.stderr
    refused = run("--run", str(tmp_path / "nowhere"))
    assert refused.returncode == 2 and "no trained model" in refused.stderr


# ── settings and logits that no sampler may take ──


@pytest.mark.parametrize("temperature", [-1.0, INF, np.nan])
def test_every_sampler_refuses_a_temperature_out_of_range(model, temperature):
    decoder = Decoder(model)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        choose(logs([0.5, 0.5]), np.zeros(1), temperature)
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        list(decoder.write([1], 2, temperature=temperature))
    with pytest.raises(ValueError, match="temperature must be at least 0"):
        write_together(decoder, [[1]], 2, temperature=temperature)


def test_a_tiny_temperature_takes_the_likeliest_token():
    logits = np.array([[1.0, 3.0, 2.0], [-900.0, -901.0, -902.0]])
    assert choose(logits, np.array([0.99, 0.99]), temperature=1e-300).tolist() == [1, 0]


@pytest.mark.parametrize("bad", [np.nan, INF])
@pytest.mark.parametrize("settings", [{}, {"top_p": 0.9}, {"top_k": 2}, {"temperature": 0}])
def test_logits_with_nan_or_infinity_are_refused(bad, settings):
    with pytest.raises(ValueError, match="the logits hold NaN or infinity"):
        choose(np.array([[0.0, bad, 1.0]]), np.array([0.5]), **settings)


def test_the_nucleus_is_exact_where_its_threshold_is_a_sum_of_probabilities():
    rng = np.random.default_rng(0)
    for _ in range(200):
        probability = rng.dirichlet(np.ones(12))
        logits = np.log(probability)[None]
        likeliest_first = np.sort(softmax(logits)[0])[::-1]
        for n, p in enumerate(np.cumsum(likeliest_first)[:-1], 1):
            assert np.isfinite(nucleus_filter(logits, p)).sum() == n


def test_each_prompt_may_have_a_limit_of_its_own(model):
    limits = [3, 0, 8, 5]
    written = generate(model, PROMPTS, limits, generator=mg.Generator(4))
    together = generate(model, PROMPTS, 8, generator=mg.Generator(4))
    assert written == [row[:limit] for row, limit in zip(together, limits)]

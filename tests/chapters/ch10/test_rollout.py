from dataclasses import replace

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn.functional as F
from chapters.ch08_sample import generate
from chapters.ch10.assess import kl_between
from chapters.ch10.rollout import (
    PAD,
    chosen_log_probs,
    log_probs_of,
    roll_out,
    roll_out_many,
    score_targets,
    sequence_kl,
    to_rollouts,
)
from chapters.ch10.sft import format_prompt, task_prompt
from chapters.support.batches import IGNORE_INDEX

# ── the grid ──


def test_the_grid_marks_the_seam_and_ends_with_the_response():
    rollouts = to_rollouts([[1, 2, 3], [4]], [[5, 6], [7, 8, 9]], [True, False], [[-0.5, -0.25], [-1, -2, -3]])
    assert rollouts.inputs.tolist() == [[1, 2, 3, 5, 6], [4, 7, 8, 9, PAD]]
    assert rollouts.mask.tolist() == [[False, False, True, True], [True, True, True, False]]
    assert rollouts.targets.tolist() == [[IGNORE_INDEX] * 2 + [5, 6], [7, 8, 9, IGNORE_INDEX]]
    assert rollouts.old_log_probs.tolist() == [[0, 0, -0.5, -0.25], [-1, -2, -3, 0]]
    assert rollouts.last.tolist() == [3, 2] and rollouts.lengths.tolist() == [2, 3]


def test_padding_is_not_the_end_of_text(assistant_tokenizer):
    """The mask includes an end-of-text token that the policy chose, and never padding, whatever its id."""
    assert PAD != assistant_tokenizer.eos_id
    end = assistant_tokenizer.eos_id
    rollouts = to_rollouts([[1], [1, 2, 3]], [[5, end], [6, 7]], [True, False])
    assert rollouts.targets[0].tolist() == [5, end, IGNORE_INDEX, IGNORE_INDEX]


# ── step 1: rollouts ──


def test_log_probs_recomputed_equal_those_recorded_at_sampling(make_gpt, assistant_tokenizer, tasks):
    gpt = make_gpt()
    rollouts = roll_out(gpt, assistant_tokenizer, tasks[:8], 12, mg.Generator(3))
    assert len(set(map(len, rollouts.prompts))) > 1  # sampling pads on the left, log_probs_of on the right
    np.testing.assert_allclose(log_probs_of(gpt, rollouts, batch_size=3), rollouts.old_log_probs, atol=2e-5)
    assert (rollouts.old_log_probs[rollouts.mask] < 0).all() and (rollouts.old_log_probs[~rollouts.mask] == 0).all()


def test_scoring_the_targets_alone_gives_the_same_log_probs_and_gradients(make_gpt, assistant_tokenizer, tasks):
    rollouts = roll_out(make_gpt(), assistant_tokenizer, tasks[:5], 9, mg.Generator(3))
    weights = np.random.default_rng(0).standard_normal(rollouts.mask.shape).astype(np.float32)
    results = []
    for all_positions in (True, False):
        gpt = make_gpt()
        if all_positions:
            log_probs = chosen_log_probs(gpt(rollouts.action_inputs()), mg.from_numpy(rollouts.targets))
        else:
            log_probs, logits = score_targets(gpt, rollouts.action_inputs(), rollouts.targets)
            assert logits.shape == (rollouts.mask.sum(), gpt.config.vocab_size)
        (log_probs * mg.from_numpy(weights)).sum().backward()
        results.append([log_probs.numpy(force=True), *(p.grad.array for p in gpt.parameters())])
    for ours, expected in zip(*reversed(results), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-5)


def test_rollouts_equal_the_output_of_chapter_8s_generate(make_gpt, assistant_tokenizer, tasks):
    gpt, end = make_gpt(), assistant_tokenizer.eos_id
    rollouts = roll_out(gpt, assistant_tokenizer, tasks[:6], 10, mg.Generator(1))
    prompts = [assistant_tokenizer.encode(format_prompt(t.instruction, t.input)) for t in tasks[:6]]
    assert rollouts.prompts == prompts
    generated = generate(gpt, prompts, 10, stop_ids=(end,), generator=mg.Generator(1))
    assert [r[:-1] if e else r for r, e in zip(rollouts.responses, rollouts.ended, strict=True)] == generated


def ending_gpt(gpt, end):
    """Make the model choose the end-of-text token often, through its row of the tied embedding table."""
    gpt.wte.weight.array[end] = 0.6 * gpt.ln_f.weight.array * np.sign(gpt.wte.weight.array[end])
    return gpt


def test_nothing_follows_a_recorded_end_of_text_token(make_gpt, assistant_tokenizer, tasks):
    end = assistant_tokenizer.eos_id
    gpt = ending_gpt(make_gpt(), end)
    rollouts = roll_out(gpt, assistant_tokenizer, tasks * 2, 30, mg.Generator(0))
    assert rollouts.ended.any()
    for response, ended in zip(rollouts.responses, rollouts.ended, strict=True):
        assert response.count(end) == ended and (not ended or response[-1] == end)
    np.testing.assert_allclose(log_probs_of(gpt, rollouts), rollouts.old_log_probs, atol=2e-5)
    after = np.arange(rollouts.mask.shape[1]) > rollouts.last[:, None]
    assert not rollouts.mask[after].any() and (rollouts.targets[after] == IGNORE_INDEX).all()


def test_many_rollouts_come_back_in_the_order_of_their_tasks(make_gpt, assistant_tokenizer, tasks):
    gpt = make_gpt()
    rollouts = roll_out_many(gpt, assistant_tokenizer, tasks, 5, mg.Generator(0), batch_size=7)
    assert rollouts.prompts == [assistant_tokenizer.encode(format_prompt(t.instruction, t.input)) for t in tasks]
    assert len(rollouts.texts(assistant_tokenizer)) == len(tasks)


def test_a_prompt_that_fills_the_context_is_refused(make_gpt, assistant_tokenizer, tasks):
    with pytest.raises(ValueError, match="prompts that leave room in a context of 16 tokens, got a prompt of 44 tokens"):
        roll_out(make_gpt(context=16), assistant_tokenizer, tasks[:2], 5, mg.Generator(0))


# ── step 2: KL ──


def test_kl_is_zero_between_equal_models_and_its_estimate_is_close_to_the_exact_value(make_gpt, assistant_tokenizer, tasks):
    policy, reference = make_gpt(0, d_model=16), make_gpt(1, d_model=16)
    for model in (policy, reference):
        model.wte.weight.array *= 8  # makes the two distributions differ clearly
    rollouts = roll_out(policy, assistant_tokenizer, tasks * 8, 12, mg.Generator(0))
    assert kl_between(policy, policy, rollouts) == 0
    estimate = sequence_kl(rollouts.old_log_probs, log_probs_of(reference, rollouts), rollouts.mask)
    assert estimate.mean() > 0
    with mg.no_grad():  # the exact KL at each chosen position, summed over each response
        inputs = mg.from_numpy(rollouts.inputs[:, :-1].copy())
        log_p, log_q = (F.log_softmax(model(inputs), dim=-1).numpy() for model in (policy, reference))
    exact = ((np.exp(log_p) * (log_p - log_q)).sum(-1) * rollouts.mask).sum(axis=1)
    assert estimate.mean() == pytest.approx(exact.mean(), rel=0.15)


def test_a_long_prompt_leaves_the_others_their_room(make_gpt, assistant_tokenizer, tasks):
    gpt = make_gpt(context=128)
    longer = (replace(tasks[0], input="the " * n) for n in range(128, 0, -1))
    long = next(task for task in longer if len(assistant_tokenizer.encode(task_prompt(task))) < 122)
    alone = roll_out(gpt, assistant_tokenizer, tasks[:3], 24, mg.Generator(0))
    beside = roll_out(gpt, assistant_tokenizer, [*tasks[:3], long], 24, mg.Generator(0))
    left = 128 - len(beside.prompts[3])
    assert 0 < left < 24 and len(beside.responses[3]) <= left
    assert max(len(response) for response in beside.responses[:3]) > left
    assert max(map(len, alone.responses)) == max(map(len, beside.responses[:3])) == 24

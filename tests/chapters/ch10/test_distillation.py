"""On-policy distillation: the loss and its gradient, the student's own responses, and a student that becomes its teacher."""

import numpy as np
import pytest

import minigrad as mg
from chapters.ch07_train import TrainConfig, train
from chapters.ch10.distillation import OwnResponses, distill, loss_against, reverse_kl
from chapters.ch10.harness import snapshot
from chapters.support.batches import IGNORE_INDEX
from chapters.support.run_folder import Run


def softmax(z):
    return np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)


def test_reverse_kl_and_its_gradient_equal_their_formulas():
    z, t = np.random.default_rng(0).normal(size=(2, 5, 7))
    student = mg.tensor(z, requires_grad=True)
    loss = reverse_kl(student, mg.tensor(t))
    p, q = softmax(z), softmax(t)
    kl = (p * np.log(p / q)).sum(axis=1)  # (N,)
    np.testing.assert_allclose(loss.numpy(force=True), kl, atol=1e-12)
    loss.sum().backward()
    np.testing.assert_allclose(student.grad.numpy(), p * (np.log(p / q) - kl[:, None]), atol=1e-12)


def test_only_the_students_own_tokens_are_graded(make_gpt, assistant_tokenizer, world):
    student = make_gpt(1)
    batches = OwnResponses(student, assistant_tokenizer, world.instructions("train", 9, 1), 4, seed=3, max_new_tokens=6)
    inputs, targets = batches.batch(5)
    again = batches.batch(5)
    assert np.array_equal(inputs, again[0]) and np.array_equal(targets, again[1])
    assert not np.array_equal(inputs, batches.batch(6)[0])
    graded = targets != IGNORE_INDEX
    assert (graded.sum(axis=1) >= 1).all() and (graded.sum(axis=1) <= 6).all()
    np.testing.assert_array_equal(targets[:, :-1][graded[:, :-1]], inputs[:, 1:][graded[:, :-1]])
    loss = loss_against(student)(student, mg.tensor(inputs), mg.tensor(targets))
    assert loss.item() == pytest.approx(0, abs=1e-6)  # the student is its own teacher


def test_the_student_comes_closer_and_the_teacher_stays(make_gpt, assistant_tokenizer, world, tmp_path):
    student, teacher, tasks = make_gpt(1), make_gpt(2), world.instructions("train", 30, 1)
    before = snapshot(teacher)
    config = TrainConfig(steps=30, batch_size=8, lr=1e-2, warmup_steps=2, weight_decay=0.0)
    losses = distill(student, teacher, assistant_tokenizer, tasks, config, Run(tmp_path / "run")).losses
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert all(np.array_equal(a, b) for a, b in zip(before, snapshot(teacher), strict=True))


def test_a_stopped_distillation_goes_on_exactly(make_gpt, assistant_tokenizer, world, tmp_path):
    tasks, teacher = world.instructions("train", 30, 1), make_gpt(2)

    def losses(name, steps, **changes):
        student = make_gpt(1)
        config = TrainConfig(steps=4, batch_size=4, lr=1e-2, checkpoint_every=2, **changes)
        batches = OwnResponses(student, assistant_tokenizer, tasks, 4, config.seed, max_new_tokens=5)

        def observe(step):
            if step == steps:
                raise KeyboardInterrupt

        return train(student, batches, config, Run(tmp_path / name), loss_fn=loss_against(teacher), observe=observe).losses

    whole = losses("whole", None)
    with pytest.raises(KeyboardInterrupt):
        losses("stopped", 4)  # after the checkpoint of step 2
    assert losses("stopped", None, resume=True) == whole


def test_no_task_is_refused(make_gpt, assistant_tokenizer):
    with pytest.raises(ValueError, match="distillation: expected at least one task for the student to answer, got none"):
        OwnResponses(make_gpt(), assistant_tokenizer, [], 4, seed=0)

"""The workbook: every exercise accepts our own solution, refuses its gap, and tells typical wrong answers from right ones."""

import json
import math
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chapters.support.readers import read_instructions
from chapters.workbook import speed
from chapters.workbook.exercises import EXERCISES, exercise_number
from chapters.workbook.files import PAIRS_FILE, hints_of, path_of, solution_of, text_of, write_workbook
from chapters.workbook.gaps import GAP, Definition, Target
from chapters.workbook.grading import grade, untouched
from chapters.workbook.isolation import grade_apart
from kernels import emulator, launch
from kernels.matmul.ladder import plain

ROOT = Path(__file__).parents[2]
measured_ratio = speed.time_ratio

# Typical wrong answers, as changes of our own solution: (our text, the wrong text, words of the verdict).
WRONG = {
    "merge": [
        ("i += 2", "i += 1", "expected"),
        ("if i + 1 < len(parts) and", "if", r"line \d+: IndexError: list index out of range"),
    ],
    "train_plainly": [
        ("key=lambda pair: (-counts[pair], pair)", "key=lambda pair: (-counts[pair], -len(pair))", "expected"),
        (
            "words = [merge(parts, token) for parts in words]",
            "words = [merge(parts, token) for parts in words[:1]]",
            "expected",
        ),
        ("ranks.setdefault(token, len(ranks))", "ranks[token] = len(ranks) - 1", "expected"),
    ],
    "encode_plainly": [
        ("_, i = min(known)", "_, i = known[0]", "expected"),
        ("_, i = min(known)", "_, i = max(known)", "expected"),
    ],
    "windows": [
        ("window[:, :-1], window[:, 1:]", "window[:, :-1], window[:, :-1]", r"targets\[0, 0\]"),
        ("window[:, :-1], window[:, 1:]", "window[:, 1:], window[:, :-1]", r"inputs\[0, 0\]"),
        (".astype(np.int64)", "", "expected int64, got uint16"),
    ],
    "embedding_backward": [
        (
            "dweight[distinct] += np.add.reduceat(rows[order], first, axis=0)",
            "dweight[flat] = rows",
            r"dweight\[3, \d\]: .* by central",
        ),
        ("dweight[distinct] += np.add.reduceat(rows[order], first, axis=0)", "dweight[flat] += rows", r"dweight\[3, "),
        (
            "np.zeros((num_embeddings, rows.shape[1]), dy.dtype)",
            "np.zeros((num_embeddings, rows.shape[1]))",
            "expected float32",
        ),
    ],
    "unbroadcast": [
        ("axis=tuple(range(prepended)) + stretched", "axis=tuple(range(prepended))", "ValueError: cannot reshape"),
        ("return grad.sum(", "return grad.mean(", r"the sum\[0\]: expected"),
    ],
    "softmax_forward": [
        ("np.exp(_minus_maximum(x))", "np.exp(x)", "nan, which is not finite"),
        ("y.sum(axis=-1, keepdims=True)", "y.sum(axis=0, keepdims=True)", r"y\["),
        ("y.sum(axis=-1, keepdims=True)", "y.sum()", r"y\["),
    ],
    "softmax_backward": [
        ("dy - average", "dy", r"dx\[\d, \d\]: expected -?0\.\d+ by central differences, got"),
        ("(dy * y).sum(axis=-1, keepdims=True)", "dy.mean(axis=-1, keepdims=True)", r"dx\[.*by central differences"),
        ("np.multiply(y, dy - average, out=out)", "np.multiply(y, dy - average, out=dy)", "dy was changed in place"),
        ("    return np", "    np", r"dx: expected an array of shape \(3, 7\), got None"),
    ],
    "matmul_backward": [
        (
            "da = matmul(dy, b, transpose_b=not transpose_b)",
            "da = matmul(dy, b)",
            r"line \d+: ValueError: matmul: expected b of shape",
        ),
        ("da = unbroadcast(da, a.shape)", "pass", r"da: expected the shape \(1, 3, 4\), got \(6, 3, 4\)"),
        ("return da, db", "return da", r"expected 2 results \(da, db\), got an array"),
    ],
    "attention_by_hand": [
        ("/ math.sqrt(D)", "", r"y\[\d, \d\]"),
        ("k=1), device", "k=2), device", r"y\[0, "),
        ("np.triu(np.ones((T, T), bool), k=1)", "np.tril(np.ones((T, T), bool), k=-1)", r"y\["),
        ("return weights @ v, weights", "return (weights @ v).detach(), weights.detach()", "has no gradient"),
    ],
    "attention_backward": [
        ("dS = P * (dout @ v.swapaxes(-1, -2) - row)", "dS = P * (dout @ v.swapaxes(-1, -2))", r"dq\[.*central"),
        ("dS.swapaxes(-1, -2) @ q * factor", "dS.swapaxes(-1, -2) @ q", r"dk\[.*central"),
        ("P.swapaxes(-1, -2) @ dout", "P @ dout", r"dv\[.*central|dv: expected the shape"),
    ],
    "rotary": [
        ("a * cos - b * sin", "a * cos + b * sin", r"y\["),
        ("np.split(x, 2, axis=-1)", "(x[..., ::2], x[..., 1::2])", r"y\["),
        ("sin = -sin if inverse else sin", "", r"y\["),
    ],
    "layernorm_forward": [
        ("+ x.dtype.type(eps))", ") + x.dtype.type(eps)", r"y\["),
        ("x.mean(axis=-1, keepdims=True)", "x.mean(axis=0, keepdims=True)", r"y\[|mean: expected"),
        ("return y, mean[..., 0], rstd[..., 0]", "return y, mean, rstd", r"mean: expected the shape \(3,\), got \(3, 1\)"),
    ],
    "layernorm_backward": [
        ("dn - shift - n * stretch", "dn - n * stretch", r"dx\[\d, \d\]: expected .* by central differences, got"),
        ("dn - shift - n * stretch", "dn - shift", r"dx\["),
        ("(dy * n).sum(axis=rows)", "dy.sum(axis=rows)", r"dweight\[\d\]: expected .* by central differences, got"),
        ("dy.sum(axis=rows)", "dy.mean(axis=rows)", r"dbias\[\d\]: expected .* by central differences"),
    ],
    "gelu_backward": [
        ("+ x * np.exp", "+ np.exp", r"dx\["),
        ("np.multiply(dy, slope, out=out)", "slope", r"dx\["),
        ("(1 - t * t)", "(1 - t)", r"dx\[.*, with an input of shape \(3, 4\), approximate = 'tanh'$"),
    ],
    "SiLU": [
        ("dy * s * (1 + x * (1 - s))", "dy * s * (1 - s)", r"dx\[\d, \d\]: expected .* by central differences"),
        ("return x * s", "return s", r"\[\d, \d\]: expected"),
        ("ctx.save(x, s)", "ctx.save(x)", "ValueError: not enough values to unpack"),
    ],
    "visible_keys": [
        ("np.arange(S) <= np.arange(T)", "np.arange(S) < np.arange(T)", r"visible\[0, 0, 0, 0\]: expected True, got False"),
        (" + causal_offset", "", r"visible\[0, 0, 0, 1\]: expected True"),
        ("np.arange(S) >= np.asarray", "np.arange(S) > np.asarray", r"visible\[0, 0, 0, 0\]"),
    ],
    "cross_entropy_forward": [
        ("np.exp(x - top[:, None]).sum(axis=-1)) + top", "np.exp(x).sum(axis=-1))", "inf, which is not finite"),
        ("np.flatnonzero(targets != ignore_index)", "np.arange(len(targets))", "IndexError"),
        ("lse - at_target, lse", "at_target - lse, lse", r"losses\[\d\]: expected"),
    ],
    "cross_entropy_backward": [
        ("dlogits[r, targets[r]] -= 1 - label_smoothing", "pass", r"dlogits\[\d, \d\]: expected .* by central"),
        ("dlogits[r] *= dlosses[r]", "pass", r"dlogits\[.* by central"),
        (
            "        if targets[r] == ignore_index:\n            dlogits[r] = 0\n            continue\n",
            "",
            "IndexError|central",
        ),
    ],
    "topological_order": [
        ("order[::-1]", "order", "each node stands before the nodes behind it.*expected True, got False"),
        ("seen.add(node)", "pass", "number of nodes"),
        (
            "stack = [(root.node, False) for root in roots if root.node is not None]",
            "return [roots[0].node]",
            "number of nodes",
        ),
    ],
    "adamw_step": [
        ("lr / correction1", "lr", r"params\[0\]\[\d, \d\]: expected"),
        ("np.sqrt(v) / number(correction2)", "np.sqrt(v)", r"params\[0\]"),
        ("param *= number(1 - lr * weight_decay)", "g = g + number(weight_decay) * param", r"params\[0\]"),
        ("param *= number", "param = param * number", "params: expected a change in place"),
        ("m += number(1 - beta1) * g", "m = m + number(1 - beta1) * g", r"exp_avgs\[0\]"),
    ],
    "warmup_cosine": [
        (
            "lr * (step + 1) / warmup_steps",
            "lr * step / warmup_steps",
            "the learning rate: expected 3e-05, got 0, with step = 0",
        ),
        ("min_lr + (lr - min_lr)", "lr", "the learning rate: expected"),
        ("min((step - warmup_steps) / decaying, 1.0)", "step / total_steps", "the learning rate: expected"),
    ],
    "clip_grad_norm": [
        ("xp.minimum(max_norm / (norm + 1e-6), 1)", "max_norm / (norm + 1e-6)", r"the gradients\[0\]\["),
        ("kernels.serving(grads[0]).scale_arrays(grads, factor)", "pass", r"the gradients\[0\]\["),
        ("Tensor(xp.asarray(norm,", "Tensor(xp.asarray(norm * factor,", "the norm: expected"),
    ],
    "choose_plainly": [
        ("ahead >= top_p", "ahead + p[likeliest_first] >= top_p", "the token: expected"),
        ("ahead >= top_p", "ahead > top_p", "the token: expected .*top_p = 0.75"),
        ("(logits - logits.max()) / temperature", "(logits - logits.max()) * temperature", "the token: expected"),
        ("likeliest_first[top_k:]", "likeliest_first[top_k + 1 :]", "the token: expected .*top_k = "),
    ],
    "rms_norm_backward": [
        ("dn - n * stretch", "dn", r"dx\[\d, \d\]: expected .* by central differences"),
        ("(dn * n).mean(", "(dn * n).sum(", r"dx\["),
        ("(dy * n).sum(", "(dy * x).sum(", r"dweight\[\d\]: expected .* by central differences"),
    ],
    "last_positions": [
        ("mg.where(idx != pad_id, columns, 0).amax(dim=1)", "(idx != pad_id).sum(dim=1)", r"columns\[0\]: expected 2, got 3"),
        (".amax(dim=1)", ".amax(dim=0)", r"columns: expected the shape \(4,\), got \(5,\)"),
        ("idx != pad_id", "idx == pad_id", r"columns\[0\]"),
    ],
    "build_example": [
        ("* len(prompt_targets)", "* (len(prompt_targets) + 1)", "labels.*expected"),
        ("prompt_ids[1:]", "prompt_ids", "labels.*expected"),
        ("([] if eos_id is None else [eos_id])", "[]", "input_ids: expected .* items"),
        ("+ response_ids + [IGNORE_INDEX]", "+ response_ids", "labels: expected .* items"),
    ],
    "LoRALinear": [
        ("self.down(x) * self.scale", "self.down(x)", r"y\[\d, \d\]: expected"),
        ("+= self.scale * (", "+= (", r"the merged weight\[\d, \d\]: expected"),
        ("self.up.weight.array @ self.down.weight.array", "self.down.weight.array @ self.up.weight.array", "ValueError"),
    ],
    "preference_loss": [
        ("chosen - rejected", "rejected - chosen", r"the loss\[\d\]: expected"),
        ("-F.logsigmoid(chosen - rejected)", "-F.sigmoid(chosen - rejected).log()", "inf, which is not finite"),
        ("-F.logsigmoid(chosen - rejected)", "-F.logsigmoid(chosen - rejected).mean()", r"the loss: expected the shape \(5,\)"),
    ],
    "gae": [
        ("gamma * lam * next_advantage) * mask[:, t]", "gamma * lam * next_advantage)", r"advantages\["),
        ("next_value = values[:, t] * mask[:, t]", "next_value = values[:, t]", r"advantages\["),
        ("gamma * lam * next_advantage", "gamma * next_advantage", r"advantages\["),
        ("(advantages + values) * mask", "advantages * mask", r"returns\["),
    ],
    "policy_loss": [
        ("mg.maximum(unclipped, clipped)", "mg.minimum(unclipped, clipped)", "the loss: expected"),
        ("mg.maximum(unclipped, clipped)", "unclipped", "the loss: expected"),
        ("masked_mean(mg.maximum(unclipped, clipped), mask)", "mg.maximum(unclipped, clipped).mean()", "the loss: expected"),
    ],
    "kl_by_token": [
        ("mg.exp(difference) - difference - 1", "-difference", r"KL\["),
        ("reference_log_probs - log_probs", "log_probs - reference_log_probs", r"KL\["),
        (
            "difference = reference_log_probs - log_probs",
            "difference = reference_log_probs - log_probs.detach()",
            "no gradient",
        ),
    ],
    "group_advantages": [
        ("groups.mean(axis=1, keepdims=True)", "groups.mean()", r"advantages\["),
        ("groups.std(axis=1, keepdims=True)", "groups.std(axis=1, keepdims=True, ddof=1)", r"advantages\["),
        (" + 1e-6", "", r"advantages\["),
    ],
    "dpo_loss": [
        ("- (rejected - reference_rejected)", "+ (rejected - reference_rejected)", "the loss: expected"),
        ("(chosen - reference_chosen) - (rejected - reference_rejected)", "chosen - rejected", "the loss: expected"),
        ("return -F", "return F", "the loss: expected"),
    ],
    "best_of_n": [
        ("math.comb(i, n - 1)", "math.comb(i, n)", "the expected value: expected"),
        ("np.argsort(proxy, ", "np.argsort(-proxy, ", "the expected value: expected"),
        ("np.argsort(proxy, ", "np.argsort(values, ", "the expected value: expected"),
    ],
    "matmul_shared": [
        (
            "        __syncthreads();  // every thread has written its part of the tiles\n",
            "",
            "stopped at a fault: .*no thread has written, at line 20",
        ),
        ("        __syncthreads();  // every thread has read the tiles\n", "", "stopped at a fault: .*race"),
        ("as[ty][k] * bs[k][tx]", "as[tx][k] * bs[k][ty]", r"c\[\d+, \d+\] of a product with M=40, N=33, K=70: expected"),
    ],
    "four_rows": [
        ("c[i + 3, j] += a[i + 3, k] * b[k, j]", "c[i + 3, j] += a[i + 3, k] * b[j, k]", r"c\[\d+, \d+\]: expected"),
        ("        c[i : i + 4] = 0\n", "", "nan, which is not finite"),
    ],
}


def name_of(exercise):
    return path_of(exercise, Path()).stem[3:]


def write_solution(exercise, folder, *change):
    """Write our own solution, with a change, as the reader's file."""
    text = text_of(exercise, filled=True)
    assert not change or change[0] in text, f"our solution no longer contains {change[0]!r}"
    path_of(exercise, folder).write_text(text.replace(*change) if change else text, encoding="utf-8")


@pytest.fixture(autouse=True)
def no_clock(monkeypatch):
    """A loaded machine must not decide whether a loop is fast."""
    monkeypatch.setattr(speed, "time_ratio", lambda theirs: 9.0)


# ── the exercises ────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("exercise", EXERCISES, ids=name_of)
def test_our_solution_is_right_the_gap_is_a_gap_and_wrong_answers_are_wrong(exercise, tmp_path):
    if exercise.cuda and not emulator.available():
        pytest.skip("the emulator needs g++")
    path = path_of(exercise, tmp_path)
    write_solution(exercise, tmp_path)
    if exercise.place.name == exercise.name and not exercise.gaps and not exercise.cuda:
        path.write_text(f"{text_of(exercise)}\n\n{solution_of(exercise)}\n", encoding="utf-8")  # pasted below the gap
    assert grade(exercise, tmp_path).state == "right"

    path.write_text(text_of(exercise), encoding="utf-8")
    assert untouched(exercise, tmp_path)
    state, sentence = grade(exercise, tmp_path)
    assert state == "untouched" and str(path) in sentence and "write your solution there" in sentence
    path.write_text(text_of(exercise) + ("\n// mine\n" if exercise.cuda else "\n# mine\n"), encoding="utf-8")
    state, sentence = grade(exercise, tmp_path)  # a changed file whose gap is still there
    assert state == "untouched" and ("is still a gap" in sentence or "no __syncthreads() yet" in sentence)

    assert len(WRONG[name_of(exercise)]) >= 2
    for ours, wrong, words in WRONG[name_of(exercise)]:
        write_solution(exercise, tmp_path, ours, wrong)
        state, sentence = grade(exercise, tmp_path)
        assert state == "wrong" and re.search(words, sentence), f"{wrong!r}: {state}, {sentence}"
        assert "\n" not in sentence


def test_the_exercises_are_numbered_in_the_order_of_the_book():
    assert [exercise.number for exercise in EXERCISES] == list(range(1, len(EXERCISES) + 1)) and len(EXERCISES) >= 30
    chapters = [exercise.chapter for exercise in EXERCISES if exercise.chapter]
    assert chapters == sorted(chapters) and set(range(1, 11)) == set(chapters)
    assert {name_of(exercise) for exercise in EXERCISES} == WRONG.keys()


@pytest.mark.parametrize("exercise", EXERCISES, ids=name_of)
def test_an_exercise_says_what_to_do_and_does_not_give_the_answer_away(exercise):
    text, solution, hints = text_of(exercise), solution_of(exercise), hints_of(exercise)
    assert f"Exercise {exercise.number}: {exercise.title}." in text and f"check {exercise.number}" in text
    assert exercise.place.short_path(exercise.cuda) in text and (ROOT / exercise.place.short_path(exercise.cuda)).is_file()
    assert len(hints) >= 2
    if not exercise.cuda:
        assert text.count(GAP) == len(exercise.functions)
        for name in exercise.functions:
            last = exercise.definition.solution(name).splitlines()[-1]
            assert last in solution and last.strip() not in text
            comment = exercise.definition.comment(name)
            assert not comment or (comment in hints[-1] and comment.splitlines()[0] not in text)
        assert max(map(len, text.splitlines())) <= 128


def test_an_exercise_names_the_functions_to_use_and_the_settings_that_stay_at_their_defaults():
    names = ("train_plainly", "cross_entropy_forward", "attention_backward")
    learning, loss, attention = (next(text_of(e) for e in EXERCISES if name_of(e) == name) for name in names)
    assert "    merge(parts, token): From left to right, join any two neighbours that spell the token.\n" in learning
    # An instruction to ignore ignore_index would be wrong: some targets are -100.
    assert "The check leaves ignore_index and label_smoothing at their defaults." in " ".join(loss.split())
    assert "#         key_start: (B,) ints or None" in attention  # the backward pass says: as in the forward pass
    assert "You may use" not in loss


def test_a_target_that_has_gone_is_named():
    with pytest.raises(LookupError, match="kernels/softmax/reference.py defines no softmin"):
        Definition(Target("kernels.softmax.reference", "softmin"))


# Bodies that look nothing like ours, and are right.
OTHER_WAYS = {
    "embedding_backward": """
    dweight = np.zeros((num_embeddings, dy.shape[-1]), dy.dtype)
    np.add.at(dweight, indices, dy)
    return dweight""",
    "attention_backward": """
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    P = np.exp(_scores(q, k, factor, causal_offset, key_start) - logsumexp[..., None])
    dP = np.einsum("bhtd,bhsd->bhts", dout, v)
    dS = P * (dP - (dP * P).sum(-1, keepdims=True)) * factor
    return [dS @ k, np.einsum("bhts,bhtd->bhsd", dS, q), np.einsum("bhts,bhtd->bhsd", P, dout)]""",
    "visible_keys": """
    seen = np.ones((1 if key_start is None else len(key_start), 1, T, S), bool)
    for b, _, i, j in np.ndindex(seen.shape):
        seen[b, 0, i, j] &= causal_offset is None or j <= i + causal_offset
        seen[b, 0, i, j] &= key_start is None or j >= key_start[b]
    return seen""",
    "topological_order": """
    order, stack = [], [(root.node, None) for root in roots]
    seen = set()
    while stack:
        node, behind = stack.pop()
        if behind is None:
            if node in seen:
                continue
            seen.add(node)
            behind = iter([place.node for place in node.inputs if isinstance(place, Edge)])
        following = next(behind, None)
        if following is None:
            order.insert(0, node)
        else:
            stack += [(node, behind), (following, None)]
    return tuple(order)""",
    "choose_plainly": """
    if temperature == 0:
        return np.argmax(logits)
    p = np.exp(logits / temperature - (logits / temperature).max())
    order = np.argsort(-p)[:top_k]
    p = p[order] / p[order].sum()
    total, places = 0.0, []
    for place in range(len(order)):
        if top_p is None or total < top_p:
            places.append(place)
        total += p[place]
    chosen = np.zeros(len(logits))
    chosen[order[places]] = p[places]
    return np.searchsorted(np.cumsum(chosen), uniform * chosen.sum(), side="right")""",
    "best_of_n": """
    from itertools import combinations
    return np.mean([values[max(group, key=lambda i: proxy[i])] for group in combinations(range(len(proxy)), n)])""",
}


@pytest.mark.parametrize("exercise", [e for e in EXERCISES if name_of(e) in OTHER_WAYS], ids=name_of)
def test_another_way_is_right_too(exercise, tmp_path):
    body = OTHER_WAYS[name_of(exercise)].removeprefix("\n    ")
    path_of(exercise, tmp_path).write_text(text_of(exercise).replace(GAP, body), encoding="utf-8")
    assert grade(exercise, tmp_path).state == "right", grade(exercise, tmp_path).sentence


def test_without_a_compiler_the_kernels_are_ungraded_and_not_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(emulator, "available", lambda: False)
    monkeypatch.setattr(launch, "DISABLED", True)
    for exercise, words in zip(EXERCISES[-2:], ("g++", "NUMBA_DISABLE_JIT")):
        write_solution(exercise, tmp_path)
        state, sentence = grade(exercise, tmp_path)
        assert state == "ungraded" and words in sentence


def test_the_plain_loop_takes_its_turns():
    assert 0 < measured_ratio(plain) < math.inf


def test_a_loop_that_is_not_faster_is_wrong(tmp_path, monkeypatch):
    exercise = exercise_number(len(EXERCISES))
    monkeypatch.setattr(speed, "time_ratio", lambda theirs: 1.02)
    write_solution(exercise, tmp_path)
    state, sentence = grade(exercise, tmp_path)
    assert state == "wrong" and "the product is right, but only 1.0 times as fast as the plain loop" in sentence


# ── what readers write ───────────────────────────────────────────────────────────────────────────────────────────────

SOFTMAX = next(exercise for exercise in EXERCISES if exercise.name == "softmax_forward")
HEAD = "import os, sys\nimport numpy as np\n\ndef softmax_forward(x, *, out=None):\n    "
MISTAKES = [
    (HEAD + "return x +\n", "line 5: invalid syntax; Python cannot read the file"),
    (HEAD + "    return x\n  return x\n", "line 6: unindent does not match any outer indentation level"),
    (HEAD + "return np.expp(x)\n", "line 5: AttributeError: module 'numpy' has no attribute 'expp'"),
    (HEAD + "return 1 / 0\n", "line 5: ZeroDivisionError: division by zero, with x of shape (3, 7)"),
    (HEAD + "sys.exit('bye')\n", "line 5: SystemExit: bye"),
    (HEAD + "pass\n", "y: expected an array of shape (3, 7), got None; does the body end in a return?"),
    (HEAD + "return [1, 2, 3]\n", "y: expected an array of shape (3, 7), got a list"),
    (HEAD + "return x.tolist()\n", "y: expected an array of shape (3, 7), got a list"),
    (HEAD + "return x[0]\n", "y: expected the shape (3, 7), got (7,)"),
    (HEAD + "return x.astype('float32')\n", "y: expected float64, got float32"),
    (HEAD + "return x * np.nan\n", "got nan, which is not finite"),
    (HEAD + "return softmax_forward(x)\n", "line 5: RecursionError"),
    (HEAD + "raise ValueError('a\\nb\\x1b[2J')\n", "line 5: ValueError: "),
    ("import no_such_module\n", "line 1: ModuleNotFoundError: No module named 'no_such_module'"),
    ("def softmax(x):\n    return x\n", "expected a definition of softmax_forward, found none; keep its name"),
    ("", "expected a definition of softmax_forward, found none"),
    ("x = '\x00'\n", "null bytes"),
]


@pytest.mark.parametrize("source, words", MISTAKES, ids=[words[:40] for _, words in MISTAKES])
def test_a_mistake_is_one_sentence_with_the_readers_line(source, words, tmp_path):
    path_of(SOFTMAX, tmp_path).write_text(source, encoding="utf-8")
    state, sentence = grade(SOFTMAX, tmp_path)
    assert state == "wrong" and words in sentence and "\n" not in sentence


CUDA = next(exercise for exercise in EXERCISES if exercise.cuda)
CUDA_HEAD = 'extern "C" __global__ void matmul_shared(const float* a, const float* b, float* c, int M, int N, int K) {'


@pytest.mark.skipif(not emulator.available(), reason="the emulator needs g++")
@pytest.mark.parametrize(
    "source, words",
    [
        ("__syncthreads();", "expected a kernel extern"),
        (CUDA_HEAD + "\n  __syncthreads();\n  x = 1;\n}\n", r"36_matmul_shared.cu:3:\d+: error: .*x"),
        (CUDA_HEAD.replace(", int K", "") + "__syncthreads(); }\n", "matmul_shared"),
        (CUDA_HEAD.replace("int K", "thing K") + "__syncthreads(); }\n", "thing"),
        ('#include "nothing.cuh"\n__syncthreads();', "nothing.cuh"),
        (CUDA_HEAD + " __syncthreads(); c[-1] = 0; }\n", "fault: .*line 1"),
    ],
)
def test_a_mistake_in_cuda_is_one_sentence(source, words, tmp_path):
    path_of(CUDA, tmp_path).write_text(source)
    state, sentence = grade(CUDA, tmp_path)
    assert state == "wrong" and re.search(words, sentence) and "\n" not in sentence


def test_a_file_that_is_no_text_is_wrong(tmp_path):
    for exercise in (SOFTMAX, CUDA):
        path_of(exercise, tmp_path).write_bytes(b"\xff\xfe __syncthreads")
        assert grade(exercise, tmp_path).state == "wrong" and "is not UTF-8 text" in grade(exercise, tmp_path).sentence


def test_a_crash_or_an_exit_ends_one_exercise_and_not_the_next(tmp_path):
    first, second, third, fourth = EXERCISES[:4]
    write_solution(first, tmp_path)
    path_of(second, tmp_path).write_text("import os\nos._exit(0)\n")
    path_of(third, tmp_path).write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")
    write_solution(fourth, tmp_path)
    verdicts = list(grade_apart(EXERCISES[:4], tmp_path, 120.0))
    assert [verdict.state for verdict in verdicts] == ["right", "wrong", "wrong", "right"]
    assert "ended its process, with status 0, before there was a verdict" in verdicts[1].sentence
    assert "ended its process, by the signal SIGSEGV" in verdicts[2].sentence


def test_an_endless_loop_is_ended(tmp_path):
    path_of(EXERCISES[0], tmp_path).write_text("while True: pass\n")
    (verdict,) = grade_apart(EXERCISES[:1], tmp_path, 0.5)
    assert verdict.state == "wrong" and "no result within 0.5 seconds; is there an endless loop?" in verdict.sentence


# ── the folder and the commands ──────────────────────────────────────────────────────────────────────────────────────


def test_a_changed_file_is_never_overwritten(tmp_path):
    written, changed = write_workbook(EXERCISES, tmp_path)
    assert len(written) == len(EXERCISES) + 1 and changed == []
    mine, gone, link = (path_of(exercise, tmp_path) for exercise in EXERCISES[:3])
    mine.write_text("mine")
    gone.unlink()
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    written, changed = write_workbook(EXERCISES, tmp_path)
    assert written == [gone] and changed == [mine, link] and mine.read_text() == "mine" and link.is_symlink()
    assert not list(tmp_path.glob("*partial*")) and len(list(tmp_path.iterdir())) == len(EXERCISES) + 1


def test_the_template_holds_five_pairs_that_chapter_10_reads(tmp_path):
    write_workbook([], tmp_path)
    assert len(read_instructions(tmp_path / PAIRS_FILE)) == 5


@pytest.fixture
def workbook(monkeypatch, capsys):
    """workbook(*arguments): the exit status and the output of the command."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["chapters.workbook", *map(str, arguments)])
        status = 0
        try:
            runpy.run_module("chapters.workbook", run_name="__main__", alter_sys=True)
        except SystemExit as exit:
            status = exit.code
        return status, capsys.readouterr()

    return run


def test_the_command_says_what_it_wrote_and_what_it_left_alone(workbook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, (out, _) = workbook()
    assert status == 0 and f"{len(EXERCISES) + 1} files written into workbook" in out and "left alone" not in out
    assert "--pairs workbook/five_pairs.json" in out and "check 1\n" in out
    Path("workbook/01_merge.py").write_text("mine")
    assert "1 left alone, because you changed them: 01_merge.py" in workbook()[1].out
    assert workbook("check", 2)[0] == 1  # a gap


def test_help_names_what_is_given_without_a_flag(workbook):
    status, (out, _) = workbook("--help")
    assert status == 0 and "  action {write,check,hint,solution,progress}" in out and "  number INT" in out
    assert "--action" not in out and len(out.splitlines()) <= 24


def test_hints_and_the_solution(workbook):
    status, (out, _) = workbook("hint", 8)
    assert status == 0 and "hint 1 of 3" in out and "hint 8 2" in out
    status, (out, _) = workbook("hint", 8, 3)
    assert "The quotient rule" in out and "solution 8" in out
    status, (out, _) = workbook("solution", 8)
    assert "average = (dy * y).sum(axis=-1, keepdims=True)" in out and "kernels/softmax/reference.py" in out


def test_the_folders_name_cannot_control_the_terminal(workbook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, (out, err) = workbook("--folder", "a\x1b[2J\u202e")
    assert status == 0 and "\x1b" not in out + err and "\u202e" not in out + err and "a␛[2J" in out


def test_progress_grades_what_was_touched(workbook, tmp_path):
    write_workbook(EXERCISES, tmp_path)
    write_solution(EXERCISES[0], tmp_path)
    write_solution(SOFTMAX, tmp_path, "y.sum(axis=-1, keepdims=True)", "y.sum()")
    pairs = [{"instruction": "What?", "output": "That."}] * 5
    (tmp_path / PAIRS_FILE).write_text(json.dumps(pairs))
    status, (out, _) = workbook("progress", "--folder", tmp_path)
    assert status == 0 and f"1 right, 1 wrong, {len(EXERCISES) - 2} untouched" in out
    assert f"{PAIRS_FILE}: 5 pairs of your own" in out
    assert out.splitlines()[0].split()[-1] == "right" and out.splitlines()[SOFTMAX.number - 1].split()[-1] == "wrong"
    (tmp_path / PAIRS_FILE).write_text("[")
    for exercise in (EXERCISES[0], SOFTMAX):
        path_of(exercise, tmp_path).unlink()
    assert "wrong: " in workbook("progress", "--folder", tmp_path)[1].out.splitlines()[-1]


def test_ctrl_c_ends_a_check_without_a_traceback(tmp_path):
    marker = tmp_path / "running"
    path_of(EXERCISES[0], tmp_path).write_text(f"open({str(marker)!r}, 'w').close()\nwhile True: pass\n")
    command = [sys.executable, "-m", "chapters.workbook", "check", "1", "--folder", str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True, start_new_session=True)
    while not marker.exists() and process.poll() is None:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and err == "interrupted\n" and out == ""

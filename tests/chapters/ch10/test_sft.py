import json
import math
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from chapters import ch07_train
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig, next_token_loss
from chapters.ch10 import sft
from chapters.ch10.figures import GRADED, MASKED, SEAM, draw_mask, kinds_of, lay_out, mask_in_colour, printable, table
from chapters.ch10.sft import (
    IGNORE_INDEX,
    TEMPLATE,
    TEMPLATE_WITH_INPUT,
    InstructionBatches,
    acceptance,
    ask,
    ask_base,
    boilerplate_rate,
    build_example,
    fine_tune,
    format_prompt,
    questions_answered_by_questions,
    respond,
    response_loss,
)
from chapters.support.readers import read_instructions
from chapters.support.run_folder import Run
from chapters.world import Instruction, World

ALPACA_FILE = Path(__file__).parents[4] / "shared" / "data" / "instruction-data.json"
TASKS = [
    Instruction("Name a fruit.", "", "A plum.", "fruit", "plum"),
    Instruction("What is two and two?", "", "Four.", "sum", "2+2"),
    Instruction("Say it again.", "Hey", "Hey, hey.", "echo", "Hey"),
    Instruction("Where is the cat?", "", "In the house of Mira.", "place", "cat"),
]


@pytest.fixture(scope="module")
def tokenizer():
    text = TEMPLATE + TEMPLATE_WITH_INPUT + " ".join(f"{t.instruction} {t.input} {t.output}" for t in TASKS)
    return Tokenizer.train(text * 8, 384)


def small_gpt(tokenizer, context=128, d_model=32):
    config = GPTConfig(tokenizer.vocab_size, context, n_layer=2, n_head=2, d_model=d_model)
    return GPT(config, generator=mg.Generator(0))


# ── one example ──


def test_the_template_with_and_without_an_input():
    assert format_prompt("Do it.") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nDo it.\n\n### Response:\n"
    )
    assert format_prompt("Do it.", "this") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nDo it.\n\n### Input:\nthis\n\n### Response:\n"
    )


@pytest.mark.parametrize("braces", ["{instruction}", "{0} and {", "}"])
def test_braces_in_an_instruction_are_plain_text(braces):
    assert f"\n{braces}\n" in format_prompt(braces) and f"\n{braces}\n" in format_prompt("x", braces)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("end", [False, True])
def test_every_target_is_the_next_token_or_masked(tokenizer, task, end):
    """Every position is graded if and only if the next token belongs to the response."""
    eos_id = tokenizer.eos_id if end else None
    input_ids, labels = build_example(task.instruction, task.output, tokenizer.encode, task.input, eos_id)
    prompt = tokenizer.encode(format_prompt(task.instruction, task.input))
    assert tokenizer.decode(input_ids) == format_prompt(task.instruction, task.input) + task.output + (
        "<|endoftext|>" if end else ""
    )
    assert len(labels) == len(input_ids) and labels[-1] == IGNORE_INDEX
    for i in range(len(input_ids) - 1):
        assert labels[i] == (input_ids[i + 1] if i + 1 >= len(prompt) else IGNORE_INDEX)
    assert labels[len(prompt) - 1] == tokenizer.encode(task.output)[0], "the seam is graded"
    assert (labels[-2] == tokenizer.eos_id) == end


def test_without_the_mask_every_next_token_is_graded(tokenizer):
    input_ids, labels = build_example("Name a fruit.", "A plum.", tokenizer.encode, mask_prompt=False)
    assert labels == [*input_ids[1:], IGNORE_INDEX]


def test_an_empty_response_leaves_nothing_to_grade(tokenizer):
    assert set(build_example("Name a fruit.", "", tokenizer.encode)[1]) == {IGNORE_INDEX}
    assert build_example("Name a fruit.", "", tokenizer.encode, eos_id=5)[1][-2:] == [5, IGNORE_INDEX]


# ── batches ──


def test_padding_is_masked_and_the_end_is_graded(tokenizer):
    inputs, targets = InstructionBatches(TASKS, tokenizer, 128, batch_size=4).batch(0)
    assert inputs.shape == targets.shape and inputs.shape[0] == 4
    for row, labels in zip(inputs, targets, strict=True):
        last = np.flatnonzero(labels != IGNORE_INDEX)[-1]  # the position that must predict the end of the text
        assert labels[last] == tokenizer.eos_id and row[last + 1] == tokenizer.eos_id
        assert (row[last + 1 :] == tokenizer.eos_id).all() and (labels[last + 1 :] == IGNORE_INDEX).all()


def test_padding_changes_neither_loss_nor_gradient(tokenizer):
    """The mean over a padded batch is the mean over the graded tokens of its rows, each passed alone."""
    model = small_gpt(tokenizer)
    inputs, targets = InstructionBatches(TASKS, tokenizer, 128, batch_size=4).batch(0)
    next_token_loss(model, mg.from_numpy(inputs), mg.from_numpy(targets)).backward()
    together = {name: p.grad.array.copy() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = None
    graded = (targets != IGNORE_INDEX).sum()
    for row, labels in zip(inputs, targets, strict=True):
        T = np.flatnonzero(labels != IGNORE_INDEX)[-1] + 1
        share = (labels != IGNORE_INDEX).sum() / graded
        (next_token_loss(model, mg.from_numpy(row[None, :T]), mg.from_numpy(labels[None, :T])) * float(share)).backward()
    for name, parameter in model.named_parameters():
        np.testing.assert_allclose(parameter.grad.array, together[name], rtol=2e-3, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_response_loss_is_chapter_7s_loss_but_scores_graded_positions_alone(tokenizer, mask_prompt):
    batch = InstructionBatches(TASKS, tokenizer, 128, batch_size=4, mask_prompt=mask_prompt).batch(0)
    graded, results = (batch[1] != IGNORE_INDEX).sum(), []
    for loss_fn in (next_token_loss, response_loss):
        model, inputs = small_gpt(tokenizer), list[tuple]()
        hook = model.lm_head.register_forward_pre_hook(lambda module, args, inputs=inputs: inputs.append(args))
        loss = loss_fn(model, *map(mg.from_numpy, batch))
        hook.remove()
        assert math.prod(inputs[0][0].shape[:-1]) == (batch[1].size if loss_fn is next_token_loss else graded)
        loss.backward()
        results.append([loss.numpy(force=True), *(p.grad.array for p in model.parameters())])
    for ours, expected in zip(*reversed(results), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("targets", [[[IGNORE_INDEX] * 3] * 2, [[1, 2, 3], [4, 5, 6]]])
def test_response_loss_where_nothing_or_everything_is_graded(tokenizer, targets):
    model, batch = small_gpt(tokenizer), (mg.tensor([[1, 2, 3], [4, 5, 6]]), mg.tensor(targets))
    assert response_loss(model, *batch).item() == next_token_loss(model, *batch).item()


def test_a_fully_masked_row_adds_nothing_to_the_loss(tokenizer):
    model = small_gpt(tokenizer)
    ids = mg.from_numpy(np.array([[1, 2, 3], [4, 5, 6]]))
    masked = [[IGNORE_INDEX] * 3, [IGNORE_INDEX, 7, IGNORE_INDEX]]
    loss = next_token_loss(model, ids, mg.from_numpy(np.array(masked)))
    alone = next_token_loss(model, ids[1:], mg.from_numpy(np.array(masked[1:])))
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5), "the masked row adds nothing"

    nothing = next_token_loss(model, ids, mg.from_numpy(np.full((2, 3), IGNORE_INDEX)))
    nothing.backward()
    assert nothing.item() == 0.0
    assert all(not np.any(p.grad.array) for p in model.parameters() if p.grad is not None)


def test_too_long_examples_are_skipped_and_counted(tokenizer):
    lengths = [len(build_example(t.instruction, t.output, tokenizer.encode, t.input, tokenizer.eos_id)[0]) for t in TASKS]
    context = sorted(lengths)[1]
    batches = InstructionBatches(TASKS, tokenizer, context, batch_size=2)
    assert batches.skipped == sum(n > context for n in lengths) > 0
    assert max(len(row) for row in batches.rows) <= context


def test_nothing_to_learn_from_is_refused(tokenizer):
    with pytest.raises(ValueError, match="all 4 examples are longer than the model's context of 8 tokens"):
        InstructionBatches(TASKS, tokenizer, 8, batch_size=2)
    with pytest.raises(ValueError, match="expected at least one instruction to learn from, got none"):
        InstructionBatches([], tokenizer, 128, batch_size=2)


# ── files ──


def write(tmp_path, content):
    path = tmp_path / "tasks.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_file_in_alpacas_format(tmp_path):
    records = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Name a fruit.", "input": "", "output": "Plum."},
        {"instruction": "Greet.", "output": "Grüß Gott."},
    ]
    tasks = read_instructions(write(tmp_path, "\ufeff" + json.dumps(records)))
    assert [(t.instruction, t.input, t.output) for t in tasks] == [
        ("Add.", "1 2", "3"),
        ("Name a fruit.", "", "Plum."),
        ("Greet.", "", "Grüß Gott."),
    ]


GOOD = '{"instruction": "Add.", "input": "1 2", "output": "3"}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no example"),
        ("[]", "holds no example"),
        (f"[{GOOD}, {GOOD[:30]}", "is not whole JSON: .* was it cut short"),
        (f"[{GOOD}, ]", "is not whole JSON"),
        (GOOD, "holds a dict where a list"),
        (f"[{GOOD}, 7]", "example 2 is of type int"),
        ('[{"prompt": "x", "completion": "y"}]', "example 1 has no 'instruction', only .*'completion', 'prompt'"),
        ('[{"instruction": "x"}]', "example 1 has no 'output'"),
        ('[{"instruction": "x", "output": 3}]', "its 'output' is of type int; expected text"),
        ('[{"instruction": "x", "input": ["a"], "output": "y"}]', "its 'input' is of type list"),
        ('[{"instruction": " ", "output": "y"}]', "empty instruction or output"),
        (b'[{"instruction": "\xe9", "output": "y"}]', "not UTF-8 text .byte 18"),
    ],
)
def test_a_bad_file_is_refused_on_one_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message) as error:
        read_instructions(write(tmp_path, content))
    assert "\n" not in str(error.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_instructions(tmp_path / "nothing.json")


@pytest.mark.skipif(not ALPACA_FILE.is_file(), reason="the instruction data is not at hand")
def test_the_real_instruction_file():
    assert len(read_instructions(ALPACA_FILE)) == 1100


# ── training, with the mask and without it ──


def test_the_training_loop_is_chapter_sevens():
    assert sft.train is ch07_train.train


CONFIG = TrainConfig(steps=60, batch_size=4, lr=1e-2, min_lr=1e-3, warmup_steps=5, checkpoint_every=60, eval_every=30)


@pytest.fixture(scope="module")
def tuned(tokenizer, tmp_path_factory):
    """Exercise 2 on four pairs: the same model overfitted with the mask and without it."""
    models = {}
    for name, mask_prompt in {"masked": True, "unmasked": False}.items():
        run = Run(tmp_path_factory.mktemp(name))
        model = small_gpt(tokenizer, d_model=48)
        history, skipped = fine_tune(model, tokenizer, TASKS, CONFIG, run, mask_prompt, held_out=TASKS)
        models[name] = model, history, skipped, run
    return models


def test_the_tuned_model_answers_and_stops(tuned, tokenizer):
    model, history, skipped, run = tuned["masked"]
    assert skipped == 0 and history.validation_losses[-1] < 0.05 < 3 < history.validation_losses[0]
    assert ask(model, tokenizer, TASKS, max_new_tokens=40) == [task.output for task in TASKS]
    saved, its_tokenizer = load_model(run.folder)
    assert ask(saved, its_tokenizer, TASKS[:1]) == ["A plum."]


def test_only_the_unmasked_model_recites_the_template(tuned, tokenizer):
    masked, texts = boilerplate_rate(tuned["masked"][0], tokenizer, samples=16, max_new_tokens=60)
    unmasked, recited = boilerplate_rate(tuned["unmasked"][0], tokenizer, samples=16, max_new_tokens=60)
    assert masked == 0.0 and unmasked >= 0.75
    assert len(texts) == len(recited) == 16 and any("### Response:\n" in text for text in recited)


def test_answers_come_back_in_the_order_of_the_questions(tuned, tokenizer):
    model = tuned["masked"][0]
    prompts = [format_prompt(t.instruction, t.input) for t in TASKS * 2]
    assert respond(model, tokenizer, prompts, batch_size=3) == [t.output for t in TASKS * 2]


def test_the_base_model_is_asked_without_a_template(monkeypatch, tokenizer):
    monkeypatch.setattr(sft, "respond", lambda model, tokenizer, prompts: prompts)
    assert ask_base(None, tokenizer, TASKS[1:3]) == ["What is two and two?\n", "Say it again.\nHey\n"]


# ── judging ──


def test_acceptance_by_family():
    world = World(0)
    tasks = world.instructions("test", 40, seed=0)
    right = acceptance(world, tasks, [task.output for task in tasks])
    assert right["all"] == 1.0 and set(right["families"]) == {task.family for task in tasks}
    assert acceptance(world, tasks, [""] * 40)["all"] == 0.0
    half = acceptance(world, tasks, [task.output if i % 2 else "" for i, task in enumerate(tasks)])
    assert half["all"] == 0.5


def test_questions_answered_by_questions():
    tasks = [TASKS[0], TASKS[1], TASKS[3]]  # the first asks nothing
    assert questions_answered_by_questions(tasks, ["What?", "What is three?", "In the house."]) == 0.5
    assert questions_answered_by_questions(tasks[:1], ["What?"]) == 0.0


# ── text and figures ──


def test_the_kinds_of_positions(tokenizer):
    input_ids, labels = build_example("Name a fruit.", "A plum.", tokenizer.encode)
    kinds, prompt = kinds_of(labels), len(tokenizer.encode(format_prompt("Name a fruit.")))
    assert kinds == [MASKED] * (prompt - 1) + [SEAM] + [GRADED] * (len(input_ids) - prompt - 1) + [MASKED]
    assert kinds_of([4, 5, IGNORE_INDEX]) == [GRADED, GRADED, MASKED], "without a mask there is no seam"
    assert kinds_of([IGNORE_INDEX] * 3) == [MASKED] * 3


def test_the_mask_with_and_without_colour(tokenizer):
    input_ids, labels = build_example("Name a fruit.", "A plum.", tokenizer.encode, eos_id=tokenizer.eos_id)
    assert "\x1b[97;48;5;27m↵\x1b[0m\n" in mask_in_colour(input_ids, labels, tokenizer), (
        "the seam is the prompt's last line end"
    )
    plain = mask_in_colour(input_ids, labels, tokenizer, colour=False)
    assert plain.startswith("Below is an instruction") and "\x1b" not in plain and "### Response:[↵]\n«" in plain
    assert plain.endswith("⟨end⟩")

    lines = table(input_ids, labels, tokenizer).splitlines()
    assert len(lines) == len(input_ids) + 1 and "← the seam" in "\n".join(lines)
    assert [int(line.split()[0]) for line in lines[1:]] == list(range(len(input_ids)))


@pytest.mark.parametrize("mask_prompt", [True, False])
def test_the_mask_as_a_figure(tmp_path, tokenizer, mask_prompt):
    task = TASKS[2]
    input_ids, labels = build_example(task.instruction, "$x^2$ " + task.output, tokenizer.encode, task.input, 0, mask_prompt)
    path = draw_mask(tmp_path / "mask.svg", input_ids, labels, tokenizer)
    assert path.read_bytes().startswith(b"<?xml")


def test_the_layout_wraps_and_keeps_line_ends():
    boxes, rows = lay_out([b"one", b" two", b" three", b"\n", b"x"], width=9)
    assert [(row, text) for row, _, text in boxes] == [(0, "one"), (0, " two"), (1, " three"), (1, "↵"), (2, "x")]
    assert rows == 3


# ── the command ──


@pytest.mark.parametrize("from_file", [False, True])
def test_the_command_end_to_end(tmp_path, capsys, tokenizer, from_file):
    base = Run(tmp_path / "base")
    save_model(base, small_gpt(tokenizer, context=320), tokenizer)
    records = [{"instruction": t.instruction, "input": t.input, "output": t.output} for t in TASKS * 5]
    settings = sft.Settings(
        base=base.folder,
        data=write(tmp_path, json.dumps(records)) if from_file else None,
        run=tmp_path / "run",
        examples=16,
        held_out=16,
        training=TrainConfig(steps=2, batch_size=2, eval_batches=1),
    )
    sft.main(settings)
    output = capsys.readouterr().out
    assert "### Response:[↵]" in output and "← the seam" in output
    assert ("held-out instructions accepted" in output) == (not from_file)
    for name in ("model.safetensors", "metrics.jsonl", "samples.txt", "figures/mask.svg"):
        assert (tmp_path / "run" / name).is_file()


def test_without_a_base_model_the_error_names_a_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained model .*python -m chapters makes"):
        sft.main(sft.Settings(base=tmp_path / "nothing", run=tmp_path / "run"))


def test_unprintable_characters_have_a_sign():
    pieces = b"a b", b"\n", b"\x07c", b"\xc3", b"<|endoftext|>"
    assert [printable(piece) for piece in pieces] == ["a b", "↵", "�c", "�", "⟨end⟩"]

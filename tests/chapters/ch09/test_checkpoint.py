"""GPT-2's layout, written and loaded again. A damaged, mislabelled or malicious file gives a one-sentence error."""

import json
import tracemalloc

import numpy as np
import pytest

import minigrad as mg
from chapters.ch06_gpt import GPT, GPTConfig
from chapters.ch09.gpt2 import find, layout, load_gpt2, read_config, save_gpt2
from chapters.ch09.weights import WeightsFile
from chapters.ch10.lora import add_lora
from minigrad.serialization import MOST_HEADER, CheckpointError

CONFIG = GPTConfig(vocab_size=211, context=32, n_layer=2, n_head=2, d_model=24)


@pytest.fixture(scope="module")
def gpt():
    gpt = GPT(CONFIG, mg.Generator(0)).eval()
    rng = np.random.default_rng(0)
    for parameter in gpt.parameters():
        parameter.array[...] += 0.1 * rng.standard_normal(parameter.shape)
    return gpt


@pytest.fixture
def folder(gpt, tmp_path):
    save_gpt2(gpt, tmp_path)
    return tmp_path


def rewrite(folder, change=lambda header: None, dtype=None, rename=lambda name: name, extra=()):
    """Rewrite the file with other names, extra tensors or another dtype; `change` edits the header last."""
    arrays, _ = mg.serialization.load(folder / "model.safetensors")
    arrays = {rename(name): array for name, array in arrays.items()} | dict(extra)
    header, parts, at = {}, [], 0
    for name, array in arrays.items():
        label = dtype or "F32"
        if label == "BF16":
            array = (array.view(np.uint32) >> 16).astype(np.uint16)
        elif label == "F16":
            array = array.astype(np.float16)
        header[name] = {"dtype": label, "shape": list(array.shape), "data_offsets": [at, at + array.nbytes]}
        at += array.nbytes
        parts.append(array.tobytes())
    change(header)
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))


def same_parameters(a, b, tolerance=0.0):
    theirs = dict(b.named_parameters())
    for name, parameter in a.named_parameters():
        np.testing.assert_allclose(theirs[name].array, parameter.array, rtol=tolerance, atol=0, err_msg=name)


def test_loading_gives_back_the_saved_model(gpt, folder):
    assert read_config(folder) == CONFIG
    loaded = load_gpt2(folder)
    same_parameters(gpt, loaded)
    assert not loaded.training and loaded.lm_head.weight is loaded.wte.weight
    assert {name: p.shape for name, p in gpt.named_parameters()} == dict(layout(CONFIG))


@pytest.mark.parametrize("dtype, tolerance", [("F16", 2e-3), ("BF16", 2**-7)])
def test_half_precision(gpt, folder, dtype, tolerance):
    rewrite(folder, dtype=dtype)
    loaded = load_gpt2(folder)
    same_parameters(gpt, loaded, tolerance)  # F16 rounds, BF16 truncates
    assert all(p.dtype == np.float32 for p in loaded.parameters())


def test_names_without_the_prefix_and_with_mask_buffers(gpt, folder):
    masks = {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 32, 32), np.float32)) for i in range(2)}
    masks["h.0.attn.masked_bias"] = np.float32([-1e4]).reshape(())
    rewrite(folder, rename=lambda name: name.removeprefix("transformer."), extra=masks)
    same_parameters(gpt, load_gpt2(folder))


def test_an_untied_head_and_a_gpt_without_biases(tmp_path):
    gpt = GPT(GPTConfig(vocab_size=50, context=8, n_layer=1, n_head=2, d_model=8, tied=False, bias=False), mg.Generator(1))
    save_gpt2(gpt, tmp_path)
    loaded = load_gpt2(tmp_path)
    ids = mg.tensor([[1, 2, 3, 49]])
    np.testing.assert_allclose(loaded(ids).detach().numpy(), gpt.eval()(ids).detach().numpy(), rtol=1e-6, atol=1e-7)
    assert loaded.lm_head.weight is not loaded.wte.weight


@pytest.mark.parametrize("later", [dict(n_kv_head=1), dict(rotary=1e4), dict(rms_eps=1e-5), dict(d_gated=16)])
def test_options_that_gpt2_lacks_are_not_written(tmp_path, later):
    gpt = GPT(GPTConfig(vocab_size=50, context=8, n_layer=1, n_head=2, d_model=8, **later), mg.Generator(1))
    with pytest.raises(ValueError, match=f"GPT-2's layout has no {next(iter(later))}"):
        save_gpt2(gpt, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_missing_weight_is_not_written_as_zeros(tmp_path):
    gpt = GPT(GPTConfig(vocab_size=50, context=8, n_layer=1, n_head=2, d_model=8), mg.Generator(1))
    add_lora(gpt, rank=2, alpha=4)
    with pytest.raises(ValueError, match="lacks h.0.attn.c_attn.weight"):
        save_gpt2(gpt, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_loading_needs_hardly_more_memory_than_the_model(tmp_path):
    config = GPTConfig(vocab_size=3000, context=64, n_layer=4, n_head=4, d_model=256)  # 3 MB of tables, 13 MB of blocks
    save_gpt2(GPT(config, mg.Generator(0)), tmp_path)
    size = (tmp_path / "model.safetensors").stat().st_size
    tracemalloc.start()
    gpt = load_gpt2(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert gpt.num_parameters() * 4 <= peak < 1.3 * size


def changed(**fields):
    return lambda header: header["transformer.wte.weight"].update(fields)


@pytest.mark.parametrize(
    "change, message",
    [
        (changed(dtype="F64"), "needs a different number"),
        (changed(dtype="F16"), "needs a different number"),
        (changed(dtype="FLOAT"), "unknown dtype"),
        (changed(dtype="I32"), "stored as I32"),
        (changed(shape=[24, 211]), "has the shape"),
        (changed(shape=[211, -24]), "impossible shape"),
        (changed(shape=[2**60, 2**60]), "impossible shape"),
        (changed(shape=[211.0, 24]), "impossible shape"),
        (changed(data_offsets=[0, 2**50]), "outside the"),
        (changed(data_offsets=[4, 20260]), "does not begin where"),
        (changed(data_offsets=None), "outside the"),
        (lambda header: header.update({"transformer.wte.weight": 7}), "is not described by"),
        (lambda header: header["transformer.wpe.weight"].update(shape=[24, 32]), "wpe.weight has the shape"),
        (lambda header: header.update(x=header.pop("transformer.ln_f.bias")), "lacks the tensor transformer.ln_f.bias"),
        (lambda header: header.pop("transformer.ln_f.bias"), "belong to no tensor|does not begin"),
    ],
)
def test_a_wrong_header_is_refused_in_one_sentence(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message) as error:
        load_gpt2(folder)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400 + 2 * len(str(folder))


def test_an_unknown_tensor_is_refused(folder):
    rewrite(folder, extra={"transformer.h.2.ln_1.weight": np.zeros(24, np.float32)})
    with pytest.raises(CheckpointError, match="no place in a GPT-2"):
        load_gpt2(folder)


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "too few"),
        (b"\x05\0\0", "too few"),
        ((2**63).to_bytes(8, "little") + b"{}", "announces a header"),
        ((MOST_HEADER + 8).to_bytes(8, "little") + b" " * (MOST_HEADER + 8), "no GPT needs more"),
        ((6).to_bytes(8, "little") + b"[1, 2]", "does not list tensors"),
        ((4).to_bytes(8, "little") + b"{\xff\xff}", "not JSON"),
        ((100_000).to_bytes(8, "little") + b"[" * 100_000, "not JSON"),
        ((17).to_bytes(8, "little") + b'{"a": 1, "a": 1} ', "twice"),
        (b"PK\x03\x04 and the rest of torch.save's file", "pickled"),
        (b"\x80\x02}q\x00. an old pickle", "pickled"),
    ],
)
def test_other_kinds_of_files_are_refused(folder, data, message):
    (folder / "model.safetensors").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(CheckpointError, match=message):
        load_gpt2(folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("length", [0x280 + (1 << 16), 0x480 + (1 << 16), int.from_bytes(b"PK", "little")])
def test_a_length_that_looks_like_a_pickle_is_a_length(gpt, folder, length):
    data = (folder / "model.safetensors").read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].ljust(length)
    (folder / "model.safetensors").write_bytes(length.to_bytes(8, "little") + header + data[end:])
    same_parameters(gpt, load_gpt2(folder))


def test_truncated_at_any_place(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for length in [*range(0, 40, 7), *range(100, len(whole), 4001), len(whole) - 1]:
        (folder / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_gpt2(folder)
    (folder / "model.safetensors").write_bytes(whole + b"\0")
    with pytest.raises(CheckpointError, match="belong to no tensor"):
        load_gpt2(folder)


def test_pickles_are_refused_with_the_reason(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    for path in (folder, folder / "pytorch_model.bin", tmp_path / "model.pt"):
        with pytest.raises(CheckpointError, match="unpickling can run any code"):
            load_gpt2(path)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("model_type", "bert", "does not describe a GPT-2"),
        ("activation_function", "relu", "activation_function is relu"),
        ("layer_norm_epsilon", 1e-3, "layer_norm_epsilon"),
        ("n_layer", "2", "n_layer should be a whole number"),
        ("n_layer", 3, "lacks the tensor"),
        ("n_layer", 10**9, "lacks the tensor"),
        ("n_embd", 10**12, "has the shape"),
        ("n_embd", 0, "d_model must be at least 1"),
        ("n_inner", 7, "n_inner"),
        ("tie_word_embeddings", False, "lacks the tensor lm_head.weight"),
    ],
)
def test_the_config_of_another_model_is_refused(folder, field, value, message):
    config = json.loads((folder / "config.json").read_text()) | {field: value}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        load_gpt2(folder)


def test_a_missing_or_damaged_config_is_refused(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not JSON"):
        load_gpt2(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="belongs beside"):
        load_gpt2(folder)


def test_an_unknown_name_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="published names are gpt2"):
        find(tmp_path / "nowhere")


def test_offline_the_error_says_where_to_put_the_files(monkeypatch):
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: (_ for _ in ()).throw(ConnectionError("no route")))
    with pytest.raises(CheckpointError, match="put both in one folder"):
        find("distilgpt2")


def mutated(data, rng):
    """The file with one to three random changes: other bytes, other numbers, pieces cut out or repeated."""
    data = bytearray(data)
    header_end = 8 + int.from_bytes(data[:8], "little")
    for _ in range(rng.integers(1, 4)):
        kind, place = rng.integers(7), int(rng.integers(0, min(header_end, len(data)) if rng.random() < 0.9 else len(data)))
        if kind == 0:
            data[place] = rng.integers(256)
        elif kind == 1:
            data[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del data[place : place + int(rng.integers(1, 200))]
        elif kind == 3:
            data[place:place] = data[place : place + int(rng.integers(1, 200))]
        elif kind == 4:  # another number in place of a digit
            digits = [i for i in range(8, min(header_end, len(data))) if chr(data[i]).isdigit()]
            if digits:
                i = digits[int(rng.integers(len(digits)))]
                data[i : i + 1] = str(int(rng.choice([-1, 0, 7, 2**31, 2**63, 10**30]))).encode()
        elif kind == 5:
            data = data[: int(rng.integers(len(data) + 1))]
        else:
            data[:8] = int(rng.choice([0, 1, 7, 2**20, 2**32, 2**63, header_end])).to_bytes(8, "little")
        if not data:
            break
    return bytes(data)


def test_fuzzed_files_never_crash_hang_or_take_more_memory_than_the_file(tmp_path):
    folder, path = tmp_path, tmp_path / "model.safetensors"
    save_gpt2(GPT(GPTConfig(vocab_size=500, context=32, n_layer=2, n_head=2, d_model=64), mg.Generator(0)), folder)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    tracemalloc.start()
    for _ in range(2000):
        data = mutated(whole, rng)
        path.write_bytes(data)
        del data
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        try:
            WeightsFile(path)
            gpt = load_gpt2(folder)  # succeeds if the change hit a weight, an unimportant name or white space
            del gpt
            most = 1.3 * len(whole)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
            most = len(whole)
        assert tracemalloc.get_traced_memory()[1] - before < most
    tracemalloc.stop()
    assert 1500 < refused < 2000

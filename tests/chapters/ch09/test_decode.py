"""Compiled decoding agrees with the forward pass, reuses its cache where it can, and never prints half a character."""

import numpy as np
import pytest

import kernels
import minigrad as mg
from chapters.ch01_tokenizer import Tokenizer
from chapters.ch06_gpt import GPT, GPTConfig, save_model
from chapters.ch08_sample import generate, nucleus_filter, softmax
from chapters.ch09.decode import loss_on, weight_bytes
from chapters.ch09.decoder import Decoder, write_together
from chapters.ch09.gpt2 import save_gpt2
from chapters.ch09.load import form_of, load
from chapters.chat import Conversation, Settings, answer, questions, whole_characters
from chapters.support.run_folder import Run
from kernels.decode.reference import Norm
from minigrad import decoding

LATER = dict(n_kv_head=2, rotary=500.0, rms_eps=1e-5, d_gated=40, bias=False)


@pytest.fixture(params=[{}, LATER, dict(bias=False, tied=False)], ids=["gpt2", "later", "plain"])
def gpt(request):
    config = GPTConfig(vocab_size=300, context=32, n_layer=2, n_head=6, d_model=48, init_std=0.3, **request.param)
    return GPT(config, mg.Generator(0)).eval()


def test_the_decoder_writes_the_same_tokens_as_generate(gpt):
    prompt = [5, 6, 7, 8]
    (expected,) = generate(gpt, [prompt], 20, temperature=0)
    assert list(Decoder(gpt).write(prompt, 20, temperature=0)) == expected
    settings = dict(temperature=0.9, top_k=50, top_p=0.9)
    (expected,) = generate(gpt, [prompt], 20, generator=mg.Generator(3), **settings)
    assert list(Decoder(gpt).write(prompt, 20, generator=mg.Generator(3), **settings)) == expected
    stopped = list(Decoder(gpt).write(prompt, 20, generator=mg.Generator(3), stop_ids=(expected[4],), **settings))
    assert stopped == expected[: expected.index(expected[4])]


def test_the_logits_of_every_step_equal_the_forward_pass(gpt):
    ids = np.random.default_rng(0).integers(0, 300, 30).tolist()
    with mg.no_grad():
        whole = gpt(mg.tensor([ids])).numpy()[0]
    decoder = Decoder(gpt)
    steps = [decoder.read(ids[:10]), *(decoder.step(token) for token in ids[10:])]
    np.testing.assert_allclose(steps, whole[9:], atol=2e-5 * np.abs(whole).max())
    assert decoder.cache.length == 30 and decoder.ids == ids


def test_the_cached_beginning_of_a_text_is_not_read_again(gpt):
    decoder, ids = Decoder(gpt), list(range(20))
    decoder.read(ids)
    lengths = []
    forward = gpt.forward
    gpt.forward = lambda idx, *a, **k: lengths.append(idx.shape[1]) or forward(idx, *a, **k)
    for text, new in (([*ids, 77, 78], 2), ([*ids[:5], 9, 9], 2), ([*ids[:5], 9, 9], 1), (ids[:3], 1)):
        with mg.no_grad():
            expected = forward(mg.tensor([text])).numpy()[0, -1]
        np.testing.assert_allclose(decoder.read(text), expected, atol=1e-5 * np.abs(expected).max())
        assert lengths.pop() == new and decoder.cache.length == len(text)


def test_texts_written_together_equal_texts_written_alone(gpt):
    prompts, decoder = [[5, 6, 7, 8], [9], list(range(25)), [7, 7]], Decoder(gpt)
    alone = [list(Decoder(gpt).write(prompt, 20, temperature=0)) for prompt in prompts]
    assert write_together(decoder, prompts, 20, temperature=0) == alone  # the third goes beyond the context of 32
    stop = alone[0][6]
    cut = [ids[: ids.index(stop)] if stop in ids else ids for ids in alone]
    assert write_together(decoder, prompts, 20, temperature=0, stop_ids=(stop,)) == cut
    assert decoder.ids == [] and write_together(decoder, [], 5) == [] == write_together(decoder, [[1]], 0)[0]


def test_texts_written_together_use_the_same_random_numbers_as_generate(gpt):
    settings = dict(temperature=0.9, top_k=50, top_p=0.9, stop_ids=range(0, 300, 7))
    prompts = [[5, 6, 7, 8], [9, 1], [2]]
    expected = generate(gpt, prompts, 20, generator=mg.Generator(3), **settings)
    assert write_together(Decoder(gpt), prompts, 20, generator=mg.Generator(3), **settings) == expected


@pytest.mark.parametrize("int8", [False, True])
def test_a_device_without_kernels_is_refused(gpt, int8):
    with kernels.use("emulator"), pytest.raises(mg.DeviceError, match="made for the CPU"):
        Decoder(gpt, int8)
    norm = Norm(mg.ones(8, device="emulator").array, None)
    with pytest.raises(mg.DeviceError, match="made for the CPU"):
        decoding.decoder([], norm, None)


def test_an_interrupted_read_leaves_no_wrong_cache(gpt):
    decoder, forward = Decoder(gpt), gpt.h[1].forward
    decoder.read([1, 2, 3, 4])

    def interrupted(*args):
        raise KeyboardInterrupt

    gpt.h[1].forward = interrupted  # by then the first block has cached the new tokens
    with pytest.raises(KeyboardInterrupt):
        decoder.read([1, 9, 8, 7])
    gpt.h[1].forward = forward
    expected = Decoder(gpt).read([1, 2, 3, 4, 5])
    np.testing.assert_allclose(decoder.read([1, 2, 3, 4, 5]), expected, atol=2e-5 * np.abs(expected).max())


def test_beyond_the_context_the_newer_half_stays(gpt):
    decoder = Decoder(gpt)
    written = list(decoder.write([1, 2, 3], 60, temperature=0))
    assert len(written) == 60 and len(decoder.ids) <= 32
    with mg.no_grad():
        expected = gpt(mg.tensor([decoder.ids])).numpy()[0, -1].argmax()
    assert expected == written[-1]
    assert decoder.ids[-5:] == written[-6:-1]
    np.testing.assert_array_equal(Decoder(gpt).read(list(range(50))), Decoder(gpt).read(list(range(18, 50))))
    with pytest.raises(ValueError, match="read: expected at least one token"):
        decoder.read([])


def test_8_bit_weights_have_nearly_the_same_loss_and_a_quarter_of_the_bytes(gpt):
    ids = np.random.default_rng(1).integers(0, 300, 30).tolist()
    exact, rounded = loss_on(Decoder(gpt), ids), loss_on(Decoder(gpt, int8=True), ids)
    with mg.no_grad():
        logits = gpt(mg.tensor([ids[:-1]]))[0]
        expected = mg.nn.functional.cross_entropy(logits, mg.tensor(ids[1:])).item()
    assert exact == pytest.approx(expected, rel=1e-4)
    assert rounded == pytest.approx(exact, rel=0.02) and rounded != exact
    assert 3 < weight_bytes(gpt) / weight_bytes(gpt, int8=True) < 4
    tables = {"wte.weight", "wpe.weight"} - ({"wte.weight"} if gpt.config.tied else set())
    assert weight_bytes(gpt) == sum(p.array.nbytes for name, p in gpt.named_parameters() if name not in tables)


def test_the_nucleus_without_a_full_sort_equals_the_nucleus_with_it():
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal(5000) * s for s in (0.01, 1, 3, 30)] + [np.zeros(5000), np.repeat(rng.standard_normal(50), 100)]
    for row in rows:
        for p in (1e-9, 0.1, 0.5, 0.9, 0.999, 1.0):
            order = np.argsort(-row, kind="stable")
            probability = softmax(row[None])[0][order]
            expected = np.sort(order[np.cumsum(probability) - probability < p])
            nucleus = np.flatnonzero(np.isfinite(nucleus_filter(row[None], p)[0]))
            np.testing.assert_array_equal(nucleus, expected)


def test_characters_arrive_whole():
    tokenizer = Tokenizer({bytes([b]): b for b in range(256)})
    text = "naïve 日本 😀!"
    pieces = list(whole_characters(tokenizer, tokenizer.encode(text)))
    assert "".join(pieces) == text and all(len(piece) == 1 for piece in pieces)
    assert "".join(whole_characters(tokenizer, tokenizer.encode("é")[:1])) == "\ufffd"
    assert list(whole_characters(tokenizer, [])) == []


@pytest.mark.parametrize("form", ["auto", "instruction", "text"])
def test_a_conversation(form):
    tokenizer = Tokenizer.train("some text to learn from, again and again, some text", 270)
    gpt = GPT(GPTConfig(vocab_size=270, context=256, n_layer=1, n_head=2, d_model=16, init_std=0.3), mg.Generator(0)).eval()
    conversation, pieces = Conversation(tokenizer, form), []
    settings = Settings(max_new_tokens=12)
    text, count, first, after = answer(Decoder(gpt), conversation, "hello", settings, mg.Generator(0), pieces.append)
    assert text == "".join(pieces) and 0 < count <= 12 and first > 0 and after >= 0
    assert conversation.turns[-1] == ("assistant", text)
    for other in (tokenizer, Tokenizer.characters("letters")):
        assert Conversation(other, "auto").form == "text"
        with pytest.raises(ValueError, match="marks no turns"):
            Conversation(other, "turns")


def test_load_recognises_a_model_by_the_files_in_its_folder(tmp_path):
    tokenizer = Tokenizer.train("some text to learn from, again and again, some text", 270)
    gpt = GPT(GPTConfig(vocab_size=270, context=16, n_layer=1, n_head=2, d_model=16), mg.Generator(0)).eval()
    save_model(Run(tmp_path / "ours"), gpt, tokenizer)
    save_gpt2(gpt, tmp_path / "theirs")
    tokenizer.save(tmp_path / "theirs" / "tokenizer.tiktoken")
    for folder in ("ours", "theirs"):
        loaded, loaded_tokenizer = load(tmp_path / folder)
        np.testing.assert_array_equal(loaded.wte.weight.array, gpt.wte.weight.array)
        assert loaded_tokenizer.encode("some text") == tokenizer.encode("some text")
    with pytest.raises(FileNotFoundError, match="no trained model"):
        load(tmp_path / "nowhere")


def test_two_texts_of_one_decoder_are_refused(gpt):
    decoder = Decoder(gpt)
    first, second = decoder.write([5, 6], 4, temperature=0), decoder.write([7, 8, 9], 4, temperature=0)
    next(first), next(second)
    with pytest.raises(ValueError, match="has begun another text"):
        next(first)


def test_a_text_that_does_not_fit_is_cropped_with_a_warning(gpt):
    with pytest.warns(UserWarning, match="cropped to their last 32 tokens"):
        Decoder(gpt).read(list(range(40)))


@pytest.fixture
def small():
    tokenizer = Tokenizer.train("some text to learn from, again and again, some text", 270)
    gpt = GPT(GPTConfig(vocab_size=270, context=64, n_layer=1, n_head=2, d_model=16, init_std=0.3), mg.Generator(0)).eval()
    return gpt, tokenizer


def test_a_conversation_takes_the_form_that_the_model_was_tuned_on(small, tmp_path):
    gpt, tokenizer = small
    save_model(Run(tmp_path / "assistant"), gpt, tokenizer, "instruction")
    save_model(Run(tmp_path / "base"), gpt, tokenizer)
    assert Conversation(tokenizer, "auto", form_of(tmp_path / "assistant")).form == "instruction"
    assert Conversation(tokenizer, "text", form_of(tmp_path / "assistant")).form == "text"
    assert Conversation(tokenizer, "auto", form_of(tmp_path / "base")).form == "text"
    assert form_of("smollm2") is None


def test_a_question_longer_than_the_context_is_cropped_with_a_notice(small):
    gpt, tokenizer = small
    conversation, shown = Conversation(tokenizer, "text", room=64), []
    answer(Decoder(gpt), conversation, "x" * 100, Settings(max_new_tokens=1), mg.Generator(0), shown.append)
    assert shown[0] == "[the context has 64 tokens, so the first 36 tokens were cropped]\n"
    conversation.ask("x")
    assert conversation.crop_notice == ""


def test_ctrl_c_stops_the_answer_and_at_the_prompt_ends_the_conversation(small, monkeypatch):
    gpt, tokenizer = small
    conversation, shown = Conversation(tokenizer, "text"), []

    def show(piece):
        shown.append(piece)
        if len(shown) == 3:
            raise KeyboardInterrupt

    text, *_ = answer(Decoder(gpt), conversation, "hello", Settings(max_new_tokens=30), mg.Generator(0), show)
    assert text == "".join(shown[:3]) and shown[3] == " [stopped]" and conversation.turns[-1] == ("assistant", text)

    def pressed(prompt):
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.input", pressed)
    assert list(questions(Settings())) == []

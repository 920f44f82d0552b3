import json
import random
import subprocess
import sys
import threading
import time
from typing import Any, cast

import numpy as np
import pytest
import regex
import requests
import tiktoken
from tiktoken.load import load_tiktoken_bpe

from chapters.ch01_tokenizer import (
    END_OF_TEXT,
    GPT2_PATTERN,
    CharTokenizer,
    Tokenizer,
    TokenizerError,
    decode_plainly,
    encode_plainly,
    train_plainly,
    train_ranks,
)
from chapters.world import World

TEXT = "\n".join(World(0).documents(60_000, seed=3))


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXT, 512)


def random_texts(n=300, seed=0):
    """Random Unicode (all planes, half surrogates, spaces), random bytes, and parts of the training text."""
    draw = random.Random(seed)
    for _ in range(n):
        length = draw.randrange(40)
        yield "".join(chr(draw.randrange(0x110000)) for _ in range(length))
        yield draw.randbytes(length).decode("latin-1")
        yield draw.randbytes(length).decode("utf-8", "replace")
        yield "".join(draw.choice(" \n\t'sll dé漢🙂1½-.Ⅷ\u0301\u200d\r") for _ in range(length))
        start = draw.randrange(len(TEXT))
        yield TEXT[start : start + length]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "aaaaaaaaaaaaaaa aaaaaaa aaa",  # overlapping pairs
        "zy zy zy ab ab ba ba cd dc",  # ties
        "naïve café 漢字漢字 🙂🙂🙂 e\u0301e\u0301 \ud800",
        "it's 1234, 12345 and 123456!!!\n\n   \t indented\r\n",
        "".join(random.Random(1).choice("aab bc") for _ in range(500)),
        "".join(random.Random(2).choice("abcdefgh \n") * random.Random(3).randrange(1, 6) for _ in range(300)),
        TEXT[:3000],
    ],
)
def test_the_plain_and_the_incremental_trainer_learn_the_same_merges(text):
    for num_tokens in (256, 257, 280, 400):
        assert list(train_ranks(text, num_tokens).items()) == list(train_plainly(text, num_tokens).items())


def test_plain_decoding_undoes_plain_encoding():
    ranks = train_plainly(TEXT[:3000], 300)
    for text in (TEXT[:1000], "naïve 漢字 🙂\n", ""):
        assert decode_plainly(encode_plainly(text, ranks), ranks) == text
    assert decode_plainly(encode_plainly("é", ranks)[:1], ranks) == "\ufffd"


def test_both_encoders_agree_and_the_text_comes_back(tokenizer):
    for text in random_texts():
        ids = tokenizer.encode(text)
        assert ids == tokenizer.encode_plainly(text), repr(text)
        assert tokenizer.decode(ids) == text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        assert b"".join(tokenizer.pieces(ids)).decode() == tokenizer.decode(ids)


def test_training_applies_each_merge_as_encoding_does():
    """An independent trainer, which encodes the text from scratch before each merge, learns the same merges."""
    text = "".join(random.Random(5).choice("aab bc") for _ in range(400))
    ranks = {bytes([b]): b for b in range(256)}
    while len(ranks) < 300:
        counts: dict[bytes, int] = {}
        for word in text_words(text):
            parts = plain_parts(word, ranks)
            for pair in map(b"".join, zip(parts, parts[1:], strict=False)):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            break
        ranks[min(counts, key=lambda pair: (-counts[pair], pair))] = len(ranks)
    assert train_ranks(text, 300) == ranks


def text_words(text):
    return [word.encode() for word in regex.findall(GPT2_PATTERN, text)]


def plain_parts(word, ranks):
    parts = [bytes([b]) for b in word]
    while True:
        known = [(ranks[a + b], i) for i, (a, b) in enumerate(zip(parts, parts[1:], strict=False)) if a + b in ranks]
        if not known:
            return parts
        i = min(known)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def test_merges_start_with_the_most_frequent_pair_and_ties_go_to_the_first_in_byte_order():
    tokens = list(train_ranks("zy zy zy ab ab", 260))[256:]
    assert tokens[0] == b"zy"  # three times; " z" only twice
    assert list(train_ranks("ab cd", 257))[256] == b" c"  # a tie of " c", "ab" and "cd": the space sorts first


def test_training_is_the_same_every_time_and_gives_the_size_asked_for(tokenizer):
    assert tokenizer.vocab_size == 512
    assert list(tokenizer.ranks.items()) == list(Tokenizer.train(TEXT, 512).ranks.items())
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 2


def test_training_is_the_same_in_another_process_with_another_hash_seed(tokenizer):
    program = (
        "import zlib; from chapters.ch01_tokenizer import Tokenizer; from chapters.world import World;"
        "t = Tokenizer.train('\\n'.join(World(0).documents(60_000, seed=3)), 512);"
        "print(zlib.crc32(repr(list(t.ranks.items())).encode()))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1


def test_a_short_text_runs_out_of_pairs():
    assert Tokenizer.train("abab", 1000).vocab_size == 257 + 2  # "ab" and "abab"


def test_special_tokens_are_recognised_only_when_allowed(tokenizer):
    text = f"one{END_OF_TEXT}two"
    assert tokenizer.eos_id not in tokenizer.encode(text)
    assert tokenizer.encode(text, allow_special=True).count(tokenizer.eos_id) == 1
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(text, allow_special=True)) == text


def test_save_writes_a_file_that_tiktoken_reads_and_load_restores_everything(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "bpe.tiktoken")
    assert load_tiktoken_bpe(str(tmp_path / "bpe.tiktoken")) == tokenizer.ranks
    again = Tokenizer.load(tmp_path / "bpe.tiktoken")
    assert isinstance(again, Tokenizer)
    assert again.ranks == tokenizer.ranks and again.eos_id == tokenizer.eos_id and again.pattern == tokenizer.pattern
    assert again.encode(TEXT[:2000]) == tokenizer.encode(TEXT[:2000])
    (tmp_path / "bpe.tiktoken.json").unlink()  # the rank file alone: GPT-2's pattern, <|endoftext|> last
    assert Tokenizer.load(tmp_path / "bpe.tiktoken").eos_id == tokenizer.eos_id


def test_characters(tmp_path):
    tokenizer = Tokenizer.characters("hello, wörld\n")
    assert tokenizer.vocab_size == len(set("hello, wörld\n")) + 1
    assert tokenizer.decode(tokenizer.encode("hold")) == "hold"
    assert tokenizer.encode(f"he{END_OF_TEXT}", allow_special=True)[-1] == tokenizer.eos_id
    assert b"".join(tokenizer.pieces(tokenizer.encode("wörld"))).decode() == "wörld"
    tokenizer.save(tmp_path / "chars")
    again = Tokenizer.load(tmp_path / "chars")
    assert isinstance(again, CharTokenizer)
    assert again.alphabet == tokenizer.alphabet and again.eos_id == tokenizer.eos_id
    with pytest.raises(TokenizerError, match="expected one of the 11 characters of this tokenizer, got 'x' at position 2"):
        tokenizer.encode("hex")


@pytest.mark.parametrize("make", [lambda: Tokenizer.train(TEXT[:2000], 300), lambda: Tokenizer.characters("abc")])
def test_ids_outside_the_vocabulary_are_named(make):
    tokenizer = make()
    for bad in (-1, tokenizer.vocab_size):
        with pytest.raises(TokenizerError, match=f"expected ids from 0 to {tokenizer.vocab_size - 1}, got {bad} at position 1"):
            tokenizer.decode([0, bad])


@pytest.mark.parametrize(
    "attempt, sentence",
    [
        (lambda: Tokenizer.train("", 300), "Tokenizer.train: expected a training text, got an empty string"),
        (lambda: Tokenizer.train("abc", 256), "vocab_size of at least 257 .*, got 256"),
        (lambda: Tokenizer.characters(""), "Tokenizer.characters: expected a training text, got an empty string"),
        (lambda: Tokenizer.train(cast(Any, b"abc"), 300), "expected str, got bytes"),
        (lambda: Tokenizer.train("abc", 300).encode(cast(Any, None)), "expected str, got NoneType"),
        (lambda: Tokenizer({b"a": 0}), "expected all 256 single bytes in the vocabulary, got 1 without byte 0"),
    ],
)
def test_bad_arguments_are_refused(attempt, sentence):
    with pytest.raises(TokenizerError, match=sentence):
        attempt()


@pytest.mark.parametrize(
    "damage, sentence",
    [
        (lambda lines: [], "bpe: expected a line for each token, got an empty file"),
        (lambda lines: lines[:99] + ["not a rank line\n"] + lines[100:], "bpe, line 100: expected a token in base64"),
        (lambda lines: lines[:99] + ["@@@@ 99\n"] + lines[100:], "bpe, line 100: expected a token in base64"),
        (lambda lines: lines[:99] + lines[100:], "a line was removed or changed"),
        (lambda lines: [*lines, lines[0]], "bpe, line 512: expected each token once, got a second rank"),
    ],
)
def test_a_damaged_file_is_described(tokenizer, tmp_path, damage, sentence):
    tokenizer.save(tmp_path / "bpe")
    lines = (tmp_path / "bpe").read_text().splitlines(keepends=True)
    (tmp_path / "bpe").write_text("".join(damage(lines)))
    with pytest.raises(TokenizerError, match=sentence):
        Tokenizer.load(tmp_path / "bpe")


@pytest.mark.parametrize("content", ["{", "[]", '{"special_tokens": 3}', '{"kind": "verse"}', '{"special_tokens": {}}'])
def test_a_damaged_sidecar_is_described(tokenizer, tmp_path, content):
    tokenizer.save(tmp_path / "bpe")
    (tmp_path / "bpe.json").write_text(content)
    with pytest.raises(TokenizerError, match="bpe.json: expected the JSON that belongs to bpe, got other contents"):
        Tokenizer.load(tmp_path / "bpe")


def test_changed_ranks_and_patterns_are_refused(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "bpe")
    ranks, extra = (tmp_path / "bpe").read_bytes(), (tmp_path / "bpe.json").read_text()
    lines = ranks.splitlines(keepends=True)
    (tmp_path / "bpe").write_bytes(b"".join([*lines[:-1], b"enp6eg== %d\n" % (len(lines) - 1)]))
    with pytest.raises(TokenizerError, match="bpe: expected the ranks that fit bpe.json, got others"):
        Tokenizer.load(tmp_path / "bpe")
    (tmp_path / "bpe").write_bytes(ranks)
    (tmp_path / "bpe.json").write_text(extra.replace("p{N}", "p{L}"))
    with pytest.raises(TokenizerError, match="expected contents that fit the line 'checksum'"):
        Tokenizer.load(tmp_path / "bpe")
    earlier = {name: value for name, value in json.loads(extra).items() if name not in ("checksum", "ranks_crc")}
    (tmp_path / "bpe.json").write_text(json.dumps(earlier))
    assert Tokenizer.load(tmp_path / "bpe").ranks == tokenizer.ranks
    (tmp_path / "bpe.json").write_text(json.dumps(earlier | {"pattern": r"\w+|\s+"}))
    with pytest.raises(TokenizerError, match="expected a pattern that leaves out no character"):
        Tokenizer.load(tmp_path / "bpe")


@pytest.mark.parametrize("pattern", ["(", "(a+)+$|[^z]", r"\p{L}+"])
def test_a_pattern_that_loses_text_is_refused(tokenizer, pattern):
    with pytest.raises(TokenizerError, match="Tokenizer: expected a (pattern|regular expression)"):
        Tokenizer(tokenizer.ranks, pattern)


def test_gpt2_without_cache_or_network_says_so(monkeypatch):
    def refuse(name):
        raise requests.exceptions.ConnectionError("no route")

    monkeypatch.setattr(tiktoken, "get_encoding", refuse)
    with pytest.raises(TokenizerError, match="in tiktoken's cache or from the network, got ConnectionError"):
        Tokenizer.gpt2()


def test_gpt2_does_not_hang_on_a_silent_network(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: release.wait(30))
    start = time.monotonic()
    with pytest.raises(TokenizerError, match="in tiktoken's cache or from the network, got no answer within 0.1 s"):
        Tokenizer.gpt2(timeout=0.1)
    release.set()
    assert time.monotonic() - start < 5


def test_gpt2_has_the_published_ids():
    try:
        tokenizer = Tokenizer.gpt2(timeout=20)
    except TokenizerError as error:
        pytest.skip(str(error))
    assert tokenizer.vocab_size == 50257 and tokenizer.eos_id == 50256 and tokenizer.pattern is not None
    assert tokenizer.encode("hello world") == [31373, 995]
    text = "Byte-level BPE: naïve café, 漢字, 🙂\n\n  1234's"
    assert tokenizer.encode_plainly(text) == tokenizer.encode(text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_lesson_runs():
    done = subprocess.run(
        [sys.executable, "-m", "chapters.ch01_tokenizer", "--quick"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "it comes back unchanged" in done.stdout and "B|y" in done.stdout


def test_long_words_give_the_same_ranks_as_the_plain_trainer():
    rng = np.random.default_rng(0)
    for text in ("".join(rng.choice(list("acgt"), 600)), "a" * 300, "".join(rng.choice(list("ab "), 500))):
        assert train_ranks(text, 290) == train_plainly(text, 290)


def test_a_hundred_thousand_spaces_are_refused():
    tokenizer = Tokenizer.train("a few words", 260)
    with pytest.raises(TokenizerError, match="100,000 white-space characters in a row, got more at position 3"):
        tokenizer.encode("abc" + " " * 100_000 + "d")
    assert len(tokenizer.encode("abc" + " " * 9_000)) > 1


def test_many_documents_of_characters_are_encoded():
    tokenizer = Tokenizer.characters("abc")
    assert tokenizer.encode("ab<|endoftext|>" * 2000, allow_special=True) == [0, 1, tokenizer.eos_id] * 2000

"""Chapter 1: the tokenizer. Text becomes a list of small integers, and comes back unchanged.

What this file teaches: byte-level byte-pair encoding. Start with the 256 bytes; find the two neighbours that stand
together most often in the training text; glue them into a new token; repeat. The list of glued tokens, in the order in
which they were found (their ranks), is the whole tokenizer: a new text is encoded by gluing, lowest rank first.

    python -m chapters.ch01_tokenizer --quick

Sources: Gage 1994, "A New Algorithm for Data Compression" (the algorithm); Sennrich et al. 2016, arXiv:1508.07909
(on words); Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (on bytes).
"""

import os
import sys
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import regex
import tiktoken

from chapters.support.tokenizer_files import (
    END_OF_TEXT,
    TokenizerError,
    check_ids,
    load_files,
    save_files,
    sidecar,
)

# How GPT-2 cuts a text before any gluing, so that no token straddles two words: a contraction, or an optional space
# with letters, with digits or with other signs, or white space (all but its last character, if a word follows).
# Source: `pat` in encoder.py of the GPT-2 release (github.com/openai/gpt-2).
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# ── training ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def train_ranks(text, num_tokens, on_merge=None):
    """Byte-pair encoding from scratch: returns {token (bytes): rank}, the 256 bytes first, num_tokens in all.

    Fewer come back when the text has nothing left to glue. Of pairs equally frequent, the one whose bytes sort first
    wins: the same text always gives the same tokenizer. on_merge(token, count, rank), if given, is told of each merge.

    A pair is named by the bytes it spells, not by its two halves, because that is how tiktoken applies the ranks:
    whatever two neighbours spell a known token are glued, however that token first came about.
    """
    ranks = {bytes([b]): b for b in range(256)}
    distinct = Counter(regex.findall(GPT2_PATTERN, text))  # a million words hold a few thousand distinct ones
    counts = list(distinct.values())
    words = [[bytes([b]) for b in word.encode("utf-8", "replace")] for word in distinct]

    frequency = Counter()  # pair (the bytes it spells) -> how often it stands in the whole text
    where = defaultdict(set)  # pair -> the words that hold it: only these change when it is glued
    for w, parts in enumerate(words):
        for pair in neighbours(parts):
            frequency[pair] += counts[w]
            where[pair].add(w)

    while len(ranks) < num_tokens:
        token = min(frequency, key=lambda pair: (-frequency[pair], pair), default=None)
        if token is None:
            break
        if token not in ranks:  # it may be known already: two later tokens can come to spell an earlier one
            ranks[token] = len(ranks)
            if on_merge:
                on_merge(token, frequency[token], ranks[token])
        for w in where.pop(token):  # in any order: each word's change is the same, and sums do not depend on order
            for pair in neighbours(words[w]):
                frequency[pair] -= counts[w]
                if frequency[pair] <= 0:
                    del frequency[pair]
            words[w] = glue(words[w], token)
            for pair in neighbours(words[w]):
                frequency[pair] += counts[w]
                where[pair].add(w)
    return ranks


def neighbours(parts):
    """What each two neighbouring parts spell: [a, b, c] -> [ab, bc]."""
    return [left + right for left, right in zip(parts, parts[1:], strict=False)]


def glue(parts, token):
    """Join, from left to right, every two neighbours that spell the token."""
    glued = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and parts[i] + parts[i + 1] == token:
            glued.append(token)
            i += 2
        else:
            glued.append(parts[i])
            i += 1
    return glued


def encode_plainly(text, ranks, pattern=GPT2_PATTERN):
    """The readable encoder: in each pre-token glue the pair of lowest rank, again and again, until no pair is known."""
    ids = []
    for word in regex.findall(pattern, text):
        parts = [bytes([b]) for b in word.encode("utf-8")]
        while True:
            known = [(ranks[pair], i) for i, pair in enumerate(neighbours(parts)) if pair in ranks]
            if not known:
                break
            _, i = min(known)  # lowest rank, then leftmost
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids.extend(ranks[part] for part in parts)
    return ids


# ── the tokenizer ────────────────────────────────────────────────────────────────────────────────────────────────────


class Tokenizer:
    """Byte-level BPE with one special token, "<|endoftext|>". Made by `train`, `load`, `gpt2` or `characters`."""

    def __init__(self, ranks, pattern=GPT2_PATTERN, special_tokens=None, drop_missing=False):
        """ranks: {bytes: id}, ids 0…n-1 each once, all 256 bytes among them; special_tokens: {str: id}, by default
        "<|endoftext|>" after the last rank. Raises TokenizerError where that does not hold.
        drop_missing: bytes may be missing from the ranks (of 13 no UTF-8 text has any) and are left out of a text."""
        special_tokens = special_tokens or {END_OF_TEXT: len(ranks)}
        check_ids([*ranks.values(), *special_tokens.values()])
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing and not drop_missing:
            raise TokenizerError(
                f"the vocabulary lacks {len(missing)} of the 256 single bytes, the first of them {missing[0]}, so some "
                "texts could not be encoded; a byte-level vocabulary begins with all of them."
            )
        if END_OF_TEXT not in special_tokens:
            raise TokenizerError(f"the special tokens {sorted(special_tokens)} lack {END_OF_TEXT}; add it with an id.")
        self.ranks, self.pattern, self.special_tokens, self.missing = ranks, pattern, special_tokens, missing
        # tiktoken wants every byte to have a number: those that are missing get some beyond the vocabulary.
        beyond = {bytes([b]): self.vocab_size + i for i, b in enumerate(missing)}
        self.fast = tiktoken.Encoding(
            "minigrad", pat_str=pattern, mergeable_ranks=ranks | beyond, special_tokens=special_tokens
        )

    @property
    def vocab_size(self):
        """How many ids there are, the special token included: the rows of the embedding table."""
        return len(self.ranks) + len(self.special_tokens)

    @property
    def eos_id(self):
        """The id of "<|endoftext|>", which stands between documents and ends a response."""
        return self.special_tokens[END_OF_TEXT]

    def encode(self, text, allow_special=False):
        """text -> list[int]. "<|endoftext|>" inside it is plain text unless allow_special: a user's text must not be
        able to end a document. Half a surrogate pair, which UTF-8 cannot hold, becomes U+FFFD."""
        check_text(text)
        text = mend_surrogates(text)
        ids = self.fast.encode(text, allowed_special="all") if allow_special else self.fast.encode_ordinary(text)
        return [i for i in ids if i < self.vocab_size] if self.missing else ids

    def encode_plainly(self, text):
        """`encode` in readable Python, for the reader and for the test that says that both agree."""
        check_text(text)
        return encode_plainly(mend_surrogates(text), self.ranks, self.pattern)

    def decode(self, ids):
        """list[int] -> text. Bytes that are not whole characters (a text cut inside one) become U+FFFD."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    def pieces(self, ids):
        """The bytes of each token on its own: list[int] -> list[bytes]."""
        ids = [int(i) for i in ids]
        check_range(ids, self.vocab_size)
        return [self.fast.decode_single_token_bytes(i) for i in ids]

    def save(self, path):
        """Write the ranks in tiktoken's format (a line a token: its bytes in base64, a space, its rank), and the
        special tokens and the pattern beside them in `<path>.json`."""
        extra = {"kind": "bytes", "pattern": self.pattern, "special_tokens": self.special_tokens}
        save_files(path, self.ranks, extra | ({"drop_missing": True} if self.missing else {}))

    @staticmethod
    def load(path):
        """Read what `save` wrote (also a character tokenizer's). A rank file on its own, such as one published for
        tiktoken, gets GPT-2's pattern and "<|endoftext|>" after its last rank.
        Raises TokenizerError; FileNotFoundError."""
        ranks, extra = load_files(path)
        if extra["kind"] == "characters":
            return CharTokenizer([token.decode("utf-8") for token in ranks])
        pattern, drop_missing = extra.get("pattern", GPT2_PATTERN), extra.get("drop_missing") is True
        return Tokenizer(ranks, pattern, extra["special_tokens"], drop_missing)

    @staticmethod
    def train(text, vocab_size, on_merge=None):
        """Learn a vocabulary of vocab_size ids, "<|endoftext|>" included, from a text. About 1 MB is plenty for 1,024.
        A short text can run out of pairs to glue: then vocab_size is smaller than asked for."""
        check_text(text)
        if not text:
            raise TokenizerError("the training text is empty; give some text to count pairs in.")
        if vocab_size < 257:
            raise TokenizerError(f"vocab_size is {vocab_size} but must be at least 257: the 256 bytes and {END_OF_TEXT}.")
        return Tokenizer(train_ranks(text, vocab_size - 1, on_merge))

    @staticmethod
    def gpt2(timeout=60.0):
        """GPT-2's own 50,257 tokens, through tiktoken: from its cache, else from the network within `timeout` seconds.
        Raises TokenizerError when neither holds."""
        outcome = {}

        def fetch():
            try:
                outcome["encoding"] = tiktoken.get_encoding("gpt2")
            except Exception as error:  # no route, a refusing proxy, a damaged file: one sentence for all
                outcome["error"] = error

        # tiktoken sets no time limit of its own, and a silent firewall would otherwise hold us for minutes.
        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        thread.join(timeout)
        if "encoding" not in outcome:
            reason = outcome.get("error", TimeoutError(f"no answer within {timeout:g} s"))
            raise TokenizerError(
                "GPT-2's vocabulary is neither in tiktoken's cache nor to be had from the network "
                f"({type(reason).__name__}); set TIKTOKEN_CACHE_DIR to a folder that holds it, or try again online."
            ) from outcome.get("error")
        encoding = outcome["encoding"]
        return Tokenizer(encoding._mergeable_ranks, encoding._pat_str, {END_OF_TEXT: encoding.eot_token})

    @staticmethod
    def characters(text):
        """A tokenizer with one id a character, for those that occur in the text, sorted, and "<|endoftext|>" last."""
        check_text(text)
        if not text:
            raise TokenizerError("the training text is empty; give the text whose characters are to be the vocabulary.")
        return CharTokenizer(sorted(set(text)))


class CharTokenizer:
    """One id a character: the plainest tokenizer there is. The same methods as Tokenizer."""

    def __init__(self, characters):
        self.alphabet = list(characters)
        self.ids = {character: i for i, character in enumerate(self.alphabet)}
        self.vocab_size = len(self.alphabet) + 1
        self.eos_id = len(self.alphabet)

    def encode(self, text, allow_special=False):
        """text -> list[int]. A character outside the alphabet raises TokenizerError."""
        check_text(text)
        if allow_special and END_OF_TEXT in text:
            first, rest = text.split(END_OF_TEXT, 1)
            return [*self.encode(first), self.eos_id, *self.encode(rest, allow_special=True)]
        try:
            return [self.ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise TokenizerError(
                f"character {character!r} at position {text.index(character)} is not among the {len(self.alphabet)} "
                "that this tokenizer knows; make it from a text that holds it, or use byte-level tokens."
            ) from None

    encode_plainly = encode

    def decode(self, ids):
        """list[int] -> text."""
        ids = [int(i) for i in ids]
        check_range(ids, self.vocab_size)
        return "".join(END_OF_TEXT if i == self.eos_id else self.alphabet[i] for i in ids)

    def pieces(self, ids):
        """The bytes of each token on its own: list[int] -> list[bytes]."""
        return [self.decode([i]).encode("utf-8", "replace") for i in ids]

    def save(self, path):
        """As Tokenizer.save: a rank file whose tokens are single characters."""
        ranks = {character.encode("utf-8", "replace"): i for character, i in self.ids.items()}
        save_files(path, ranks, {"kind": "characters", "special_tokens": {END_OF_TEXT: self.eos_id}})


# ── what is refused ───────────────────────────────────────────────────────────────────────────────────────────────────


def check_range(ids, vocab_size):
    for position, i in enumerate(ids):
        if not 0 <= i < vocab_size:
            raise TokenizerError(f"id {i} at position {position} is outside the vocabulary of {vocab_size} ids.")


def check_text(text):
    if not isinstance(text, str):
        raise TokenizerError(f"a tokenizer reads str, but got {type(text).__name__}; decode bytes first.")


def mend_surrogates(text):
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


# ── the lesson ───────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Lesson:
    """Chapter 1: train a byte-level BPE tokenizer, watch its merges grow, see a sentence cut into tokens."""

    text: Path | None = None
    """A text file to learn from; without one, pages of the embedded little world."""
    vocab_size: int = 1024
    """Ids in all: 256 bytes, the merges, and <|endoftext|>."""
    sentence: str = "By trade Mira is a baker, and the price of bread is 4 coins."
    """The sentence to cut into coloured tokens."""
    save: Path | None = None
    """Where to write the rank file."""
    quick: bool = False
    """A tenth of the text and 384 ids, in well under a second."""
    num_bytes: int = 400_000
    """How much of the little world to learn from, where no text is given."""


def coloured(pieces):
    """Token pieces as a line for the terminal, neighbours in different colours (bars between them without colour)."""
    shown = [piece.decode("utf-8", "replace") for piece in pieces]
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return "|".join(shown)
    return "".join(f"\033[{30};{(43, 46, 42, 45)[i % 4]}m{piece}\033[0m" for i, piece in enumerate(shown))


def main(lesson):
    """Print the merges at growing vocabulary sizes, and the same sentence in ever fewer tokens."""
    from chapters.world import World  # here, because only the lesson needs it: the world is no part of a tokenizer

    if lesson.text:
        from chapters.support.readers import read_text

        text = read_text(lesson.text)
    else:
        text = "\n".join(World(0).documents(lesson.num_bytes, seed=0))
    print(f"{len(text.encode()):,} bytes of text; the first merges and then every doubling:")

    def show(token, count, rank):
        step = rank - 255
        if step & (step - 1) == 0:
            text_of_token = token.decode("utf-8", "replace")
            print(f"  merge {step:5}  ->  token {rank:5}  {text_of_token!r:14} stood {count:,} times")

    start = time.perf_counter()
    tokenizer = Tokenizer.train(text, lesson.vocab_size, on_merge=show)
    print(f"{tokenizer.vocab_size} ids in {time.perf_counter() - start:.2f} s. The sentence as the vocabulary grows:")
    sizes = sorted({256, 288, 320, 384, 512, 768, tokenizer.vocab_size - 1} & set(range(256, tokenizer.vocab_size)))
    for size in sizes:
        younger = Tokenizer({token: rank for token, rank in tokenizer.ranks.items() if rank < size})
        ids = younger.encode(lesson.sentence)
        print(f"  {size:5} tokens known, {len(ids):3} used: {coloured(younger.pieces(ids))}")
    ids = tokenizer.encode(text)
    back = "unchanged" if tokenizer.decode(ids) == text else "CHANGED, which should be impossible"
    num_bytes = len(text.encode())
    print(f"the whole text: {len(ids):,} tokens, {num_bytes / len(ids):.2f} bytes a token; it comes back {back}.")
    if lesson.save:
        tokenizer.save(lesson.save)
        print(f"written to {lesson.save} (and {sidecar(lesson.save).name})")


if __name__ == "__main__":
    from chapters.support.command import command

    command(main, Lesson, presets={"quick": {"num_bytes": 40_000, "vocab_size": 384}})

"""Chapter 1: the tokenizer. A text becomes a list of small integers, and the integers become the same text again.

The idea is byte-pair encoding. Start with the 256 bytes as tokens. Count every pair of neighbouring tokens in a training
text, and merge the most frequent pair into a new token. Repeat. A token's rank says when it was learned. To encode a new
text, apply the same merges to it, lowest rank first.

    python -m chapters.ch01_tokenizer --quick

Watch two things in the output: common words become tokens after a few hundred merges, and the sample sentence needs
fewer tokens with every line.

Sources: Gage 1994, "A New Algorithm for Data Compression" (the algorithm); Sennrich et al. 2016, arXiv:1508.07909
(applied to words); Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.2 (to bytes).
"""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import regex
import tiktoken

from chapters.support.command import command
from chapters.support.readers import read_text, valid_unicode
from chapters.support.tokenizer_files import END_OF_TEXT, TokenizerError, check_ids, load_files, save_files, sidecar
from chapters.world import World
from kernels.terminal import colours, print_styled, visible

# GPT-2 splits a text into words before it merges anything, so that no token straddles two words. A word is a contraction
# ('s, 'll), or letters, digits or other signs with an optional space before them, or white space (all but its last
# character, if a word follows). Source: `pat` in encoder.py of the GPT-2 release (github.com/openai/gpt-2).
GPT2_PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# ── the idea: learn merges, apply merges ─────────────────────────────────────────────────────────────────────────────


def train_plainly(text: str, num_tokens: int) -> dict[bytes, int]:
    """Learn num_tokens tokens in the plainest way: recount every pair after every merge.

    A tie goes to the pair whose bytes sort first, so the same text always gives the same tokens.

    >>> ranks = train_plainly("aaabdaaabac", 259)
    >>> list(ranks)[256:]
    [b'aa', b'aaa', b'aaab']
    """
    ranks = {bytes([b]): b for b in range(256)}
    words = split(text)
    while len(ranks) < num_tokens:
        counts = Counter(pair for parts in words for pair in pairs(parts))
        if not counts:
            break  # every word is a single token by now
        token = min(counts, key=lambda pair: (-counts[pair], pair))
        ranks.setdefault(token, len(ranks))  # a pair can spell an earlier token, which keeps its rank
        words = [merge(parts, token) for parts in words]
    return ranks


def split(text: str, pattern: str = GPT2_PATTERN) -> list[list[bytes]]:
    """Split a text into words, and each word into its bytes.

    >>> split("to be")
    [[b't', b'o'], [b' ', b'b', b'e']]
    """
    return [single_bytes(word) for word in regex.findall(pattern, text)]


def single_bytes(word: str) -> list[bytes]:
    return [bytes([b]) for b in word.encode("utf-8", "replace")]


def pairs(parts: list[bytes]) -> list[bytes]:
    """Join each token to its right neighbour: [a, b, c] -> [ab, bc].

    A pair is identified by its spelling, not by its halves, because tiktoken merges any neighbours that spell a token.
    """
    return [left + right for left, right in zip(parts, parts[1:])]


def merge(parts: list[bytes], token: bytes) -> list[bytes]:
    """From left to right, join any two neighbours that spell the token."""
    merged = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and parts[i] + parts[i + 1] == token:
            merged.append(token)
            i += 2
        else:
            merged.append(parts[i])
            i += 1
    return merged


def encode_plainly(text: str, ranks: dict[bytes, int], pattern: str = GPT2_PATTERN) -> list[int]:
    """Encode a text: in each word, merge the pair of lowest rank, leftmost first, until no known pair is left.

    >>> encode_plainly("aaab", train_plainly("aaabdaaabac", 259))
    [258]
    """
    ids: list[int] = []
    for parts in split(text, pattern):
        while known := [(ranks[pair], i) for i, pair in enumerate(pairs(parts)) if pair in ranks]:
            _, i = min(known)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids.extend(ranks[part] for part in parts)
    return ids


def decode_plainly(ids: Iterable[int], ranks: dict[bytes, int]) -> str:
    """Decode token ids: put the tokens' bytes one after another. An incomplete character becomes U+FFFD."""
    tokens = {rank: token for token, rank in ranks.items()}
    return b"".join(tokens[i] for i in ids).decode("utf-8", errors="replace")


# ── the fast trainer ─────────────────────────────────────────────────────────────────────────────────────────────────

OnMerge = Callable[[bytes, int, int], None]  # called with each new token, its count in the text and its rank


def train_ranks(text: str, num_tokens: int, on_merge: OnMerge | None = None) -> dict[bytes, int]:
    """Learn the same ranks as `train_plainly`, hundreds of times faster.

    Args:
        text: the training text.
        num_tokens: tokens to learn, the 256 bytes included; a short text may give fewer.
        on_merge: called with (token, count, rank) after each merge.

    Returns:
        {token: rank}, in the order of the ranks.
    """
    ranks = {bytes([b]): b for b in range(256)}
    words = LinkedWords(text)
    while len(ranks) < num_tokens:
        frequency = words.frequency
        token = min(frequency, key=lambda pair: (-frequency[pair], pair), default=None)
        if token is None:
            break
        if token not in ranks:
            ranks[token] = len(ranks)
            if on_merge:
                on_merge(token, frequency[token], ranks[token])
        words.merge(token)
    return ranks


class LinkedWords:
    """The words of a text in parts, with an index of the places of each pair, so that a merge visits only its own pair.

    Equal words are stored once with their count. All parts stand in one list, and links lead from each to its neighbours.
    """

    def __init__(self, text: str):
        self.parts: list[bytes] = []
        self.left: list[int] = []  # place of the part before in the same word, -1 at its beginning
        self.right: list[int] = []  # place of the part after, -1 at the end
        self.counts: list[int] = []  # occurrences of the part's word in the text
        for word, count in Counter(regex.findall(GPT2_PATTERN, text)).items():  # a million words repeat few spellings
            first, letters = len(self.parts), single_bytes(word)
            self.parts += letters
            self.left += [-1, *range(first, first + len(letters) - 1)]
            self.right += [*range(first + 1, first + len(letters)), -1]
            self.counts += [count] * len(letters)
        self.frequency: Counter[bytes] = Counter()  # pair -> occurrences in the whole text
        self.places: defaultdict[bytes, set[int]] = defaultdict(set)  # pair -> places of its left halves
        for i in range(len(self.parts)):
            self.count(i, 1)

    def count(self, i: int, sign: int) -> None:
        """Add (1) or remove (−1) the pair whose left half is at place i, if there is one."""
        if i < 0 or self.right[i] < 0:
            return
        pair = self.parts[i] + self.parts[self.right[i]]
        self.frequency[pair] += sign * self.counts[i]
        if self.frequency[pair] <= 0:
            del self.frequency[pair]
        self.places[pair] ^= {i}

    def merge(self, token: bytes) -> None:
        """Join every pair that spells the token, from left to right, like the function `merge`."""
        for i in sorted(self.places[token]):
            if i not in self.places[token]:
                continue  # its left half has just become part of the pair before it
            before, other = self.left[i], self.right[i]
            after = self.right[other]
            for place in (before, i, other):
                self.count(place, -1)
            self.parts[i], self.right[i] = token, after
            if after >= 0:
                self.left[after] = i
            for place in (before, i):
                self.count(place, 1)
        del self.places[token]


# ── the tokenizer classes ────────────────────────────────────────────────────────────────────────────────────────────


MOST_SPACES = 100_000  # characters in a run; tiktoken's regular expression overflows its stack at a few hundred thousand


class Tokenizer:
    """Byte-level BPE with the special token "<|endoftext|>". Make one with `train`, `load`, `gpt2` or `characters`.

    Args:
        ranks: {token: id} with the ids 0…n-1, each once, and with all 256 single bytes.
        pattern: regular expression that splits a text into words.
        special_tokens: {name: id}; by default "<|endoftext|>" after the last rank.
        drop_missing: accept ranks without some bytes; `encode` then leaves those bytes out. (13 of the 256 bytes never
            occur in UTF-8 text, and SmolLM2's vocabulary omits them.)

    Raises:
        TokenizerError: if the ids, the bytes or the special tokens are incomplete, or the pattern leaves out characters.
    """

    def __init__(
        self,
        ranks: dict[bytes, int],
        pattern: str = GPT2_PATTERN,
        special_tokens: dict[str, int] | None = None,
        drop_missing: bool = False,
    ):
        special_tokens = special_tokens or {END_OF_TEXT: len(ranks)}
        check_ids([*ranks.values(), *special_tokens.values()])
        missing = [b for b in range(256) if bytes([b]) not in ranks]
        if missing and not drop_missing:
            raise TokenizerError(
                f"Tokenizer: expected all 256 single bytes in the vocabulary, got {256 - len(missing)} without byte "
                f"{missing[0]}; add the missing bytes, or pass drop_missing=True"
            )
        if END_OF_TEXT not in special_tokens:
            raise TokenizerError(f"Tokenizer: expected {END_OF_TEXT} in special_tokens, got {sorted(special_tokens)}")
        check_pattern(pattern)
        self.ranks, self.pattern, self.special_tokens, self.missing = ranks, pattern, special_tokens, missing
        # tiktoken needs a number for every byte: the missing bytes get numbers beyond the vocabulary.
        beyond = {bytes([b]): self.vocab_size + i for i, b in enumerate(missing)}
        self.fast = tiktoken.Encoding(
            "minigrad", pat_str=pattern, mergeable_ranks=ranks | beyond, special_tokens=special_tokens
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: the rows of the embedding table."""
        return len(self.ranks) + len(self.special_tokens)

    @property
    def eos_id(self) -> int:
        """Id of "<|endoftext|>", the token that separates documents and ends a response."""
        return self.special_tokens[END_OF_TEXT]

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Encode a text. tiktoken does the work; the ids equal those of `encode_plainly`.

        "<|endoftext|>" in the text is ordinary text unless allow_special is True, because a user's text must not be able
        to end a document. Half a surrogate pair, which UTF-8 cannot represent, becomes U+FFFD.
        """
        check_text(text)
        text = valid_unicode(text)
        if len(text) >= MOST_SPACES and (run := regex.search(rf"(?<!\s)\s{{{MOST_SPACES}}}", text)):
            raise TokenizerError(
                f"encode: expected fewer than {MOST_SPACES:,} white-space characters in a row, got more at position "
                f"{run.start()}; shorten the run"
            )
        ids = self.fast.encode(text, allowed_special="all") if allow_special else self.fast.encode_ordinary(text)
        return [i for i in ids if i < self.vocab_size] if self.missing else ids

    def encode_plainly(self, text: str) -> list[int]:
        """Encode a text with the function `encode_plainly`: slow, but easy to follow."""
        check_text(text)
        return encode_plainly(valid_unicode(text), self.ranks, self.pattern)

    def decode(self, ids: Iterable[int]) -> str:
        """Decode token ids. An incomplete character becomes U+FFFD."""
        return b"".join(self.pieces(ids)).decode("utf-8", errors="replace")

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each token."""
        return [self.fast.decode_single_token_bytes(i) for i in checked_ids(ids, self.vocab_size)]

    def save(self, path: str | Path) -> None:
        """Write the ranks to `path` in tiktoken's format, and the special tokens and pattern to `<path>.json`."""
        extra = {"kind": "bytes", "pattern": self.pattern, "special_tokens": self.special_tokens}
        save_files(path, self.ranks, extra | ({"drop_missing": True} if self.missing else {}))

    @staticmethod
    def load(path: str | Path) -> "Tokenizer":
        """Read a Tokenizer or CharTokenizer that `save` wrote.

        A rank file without its `.json`, such as a file published for tiktoken, gets GPT-2's pattern and "<|endoftext|>"
        after its last rank.

        Raises:
            TokenizerError: if a file is damaged.
            FileNotFoundError: if there is no rank file.
        """
        ranks, extra = load_files(path)
        if extra["kind"] == "characters":
            return CharTokenizer([token.decode("utf-8") for token in ranks])
        pattern, drop_missing = extra.get("pattern", GPT2_PATTERN), extra.get("drop_missing") is True
        return Tokenizer(ranks, pattern, extra["special_tokens"], drop_missing)

    @staticmethod
    def train(text: str, vocab_size: int, on_merge: OnMerge | None = None) -> "Tokenizer":
        """Learn a vocabulary of vocab_size ids from a text, "<|endoftext|>" included.

        About 1 MB of text is plenty for 1,024 ids. A short text may run out of pairs, which gives fewer ids.
        """
        text = nonempty(text, "Tokenizer.train")
        if vocab_size < 257:
            raise TokenizerError(
                f"Tokenizer.train: expected vocab_size of at least 257 (256 bytes and {END_OF_TEXT}), got {vocab_size}"
            )
        return Tokenizer(train_ranks(text, vocab_size - 1, on_merge))

    @staticmethod
    def gpt2(timeout: float = 60.0) -> "Tokenizer":
        """GPT-2's own 50,257 tokens, from tiktoken's cache or else from the network within `timeout` seconds.

        Raises:
            TokenizerError: if neither has the vocabulary.
        """
        outcome: dict = {}

        def fetch() -> None:
            try:
                outcome["encoding"] = tiktoken.get_encoding("gpt2")
            except Exception as error:  # no route, a refusing proxy, a damaged file: the same message for all
                outcome["error"] = error

        # tiktoken sets no time limit of its own, and a silent firewall would block for minutes.
        thread = threading.Thread(target=fetch, daemon=True)
        thread.start()
        thread.join(timeout)
        if "encoding" not in outcome:
            error = outcome.get("error")
            reason = type(error).__name__ if error else f"no answer within {timeout:g} s"
            raise TokenizerError(
                f"Tokenizer.gpt2: expected GPT-2's vocabulary in tiktoken's cache or from the network, got {reason}; set "
                "TIKTOKEN_CACHE_DIR to a folder that holds the vocabulary, or try again online"
            ) from error
        encoding = outcome["encoding"]
        return Tokenizer(encoding._mergeable_ranks, encoding._pat_str, {END_OF_TEXT: encoding.eot_token})

    @staticmethod
    def characters(text: str) -> "CharTokenizer":
        """A tokenizer with an id for each character of the text, in sorted order, and "<|endoftext|>" last."""
        return CharTokenizer(sorted(set(nonempty(text, "Tokenizer.characters"))))


class CharTokenizer(Tokenizer):
    """The plainest tokenizer: each character is a token."""

    def __init__(self, characters: Iterable[str]):
        self.alphabet = list(characters)
        self.ids = {character: i for i, character in enumerate(self.alphabet)}
        self.special_tokens = {END_OF_TEXT: len(self.alphabet)}

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet) + 1

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Encode a text.  Raises TokenizerError at a character outside the alphabet."""
        check_text(text)
        if allow_special and END_OF_TEXT in text:
            first, *others = text.split(END_OF_TEXT)
            return self.encode(first) + [i for part in others for i in (self.eos_id, *self.encode(part))]
        try:
            return [self.ids[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise TokenizerError(
                f"encode: expected one of the {len(self.alphabet)} characters of this tokenizer, got {character!r} at "
                f"position {text.index(character)}; leave it out, or train tokenizer and model on a text that contains it"
            ) from None

    def encode_plainly(self, text: str) -> list[int]:
        """The same as `encode`."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Decode token ids."""
        return "".join(END_OF_TEXT if i == self.eos_id else self.alphabet[i] for i in checked_ids(ids, self.vocab_size))

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each token."""
        return [self.decode([i]).encode("utf-8", "replace") for i in ids]

    def save(self, path: str | Path) -> None:
        """Write the files that Tokenizer.save writes; each token is a single character."""
        ranks = {character.encode("utf-8", "replace"): i for character, i in self.ids.items()}
        save_files(path, ranks, {"kind": "characters", "special_tokens": self.special_tokens})


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def check_text(text: str) -> None:
    """Raise TokenizerError unless the argument is a str."""
    if not isinstance(text, str):
        raise TokenizerError(f"tokenizer: expected str, got {type(text).__name__}; decode bytes first")


# Every character up to U+024F, and words, numbers and white space as they stand in texts.
PROBE = "".join(map(chr, range(0x250))) + " It's 42 % of A's\n\n  ٣ naïve 日本語 😀…\u200d\u2028\t\r\n they'll\u3000 "


def check_pattern(pattern: str) -> None:
    """Raise TokenizerError unless a regular expression splits a text without leaving out characters."""
    try:
        covered = "".join(match.group() for match in regex.finditer(pattern, PROBE, timeout=1))
    except (regex.error, TimeoutError, OverflowError, RecursionError, MemoryError) as error:
        raise TokenizerError(
            f"Tokenizer: expected a regular expression as pattern, got {pattern[:60]!r} ({error}); use chapter 1's GPT2_PATTERN"
        ) from None
    if covered != PROBE:
        raise TokenizerError(
            f"Tokenizer: expected a pattern that leaves out no character, got {pattern[:60]!r}; end it with |\\s+|.+"
        )


def nonempty(text: str, operation: str) -> str:
    """Return the text, or raise TokenizerError if it is empty."""
    check_text(text)
    if not text:
        raise TokenizerError(f"{operation}: expected a training text, got an empty string")
    return text


def checked_ids(ids: Iterable[int], vocab_size: int) -> list[int]:
    """Return the ids as ints, or raise TokenizerError at an id outside the vocabulary."""
    ids = [int(i) for i in ids]
    for position, i in enumerate(ids):
        if not 0 <= i < vocab_size:
            raise TokenizerError(
                f"decode: expected ids from 0 to {vocab_size - 1}, got {i} at position {position}; "
                "use the tokenizer that encoded the text"
            )
    return ids


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class Settings:
    """Train a byte-level BPE tokenizer, list its first merges, and show how a sentence is cut into tokens."""

    text: Path | None = None  # UTF-8 text file to train on; None: pages of the little world
    vocab_size: int = 1024  # number of ids: 256 bytes, the merges and <|endoftext|>
    sentence: str = "By trade Mira is a baker, and the price of bread is 4 coins."  # sentence to cut into coloured tokens
    save: Path | None = None  # rank file to write
    quick: bool = False  # a tenth of the text and 384 ids, in less than a second
    num_bytes: int = 400_000  # bytes of the little world to train on, without --text


def coloured(pieces: Iterable[bytes]) -> str:
    """Token pieces on one line, in alternating colours on a terminal, else with bars between them."""
    shown = [visible(piece.decode("utf-8", "replace")) for piece in pieces]
    if not colours():
        return "|".join(shown)
    return "".join(f"\033[{30};{(43, 46, 42, 45)[i % 4]}m{piece}\033[0m" for i, piece in enumerate(shown))


def main(settings: Settings) -> None:
    """Print the merges at growing vocabulary sizes, and the sentence in fewer and fewer tokens."""
    text = read_text(settings.text) if settings.text else "\n".join(World(0).documents(settings.num_bytes, seed=0))
    num_bytes = len(text.encode())
    print(f"{num_bytes:,} bytes of text. Merges 1, 2, 4, 8, …:")

    def show(token: bytes, count: int, rank: int) -> None:
        step = rank - 255
        if step & (step - 1) == 0:
            spelling = token.decode("utf-8", "replace")
            print(f"  merge {step:5}  ->  token {rank:5}  {spelling!r:14} {count:,} occurrences")

    start = time.perf_counter()
    tokenizer = Tokenizer.train(text, settings.vocab_size, on_merge=show)
    print(f"{tokenizer.vocab_size} ids in {time.perf_counter() - start:.2f} s. The sentence as the vocabulary grows:")
    sizes = sorted({256, 288, 320, 384, 512, 768, tokenizer.vocab_size - 1} & set(range(256, tokenizer.vocab_size)))
    for size in sizes:
        smaller = Tokenizer({token: rank for token, rank in tokenizer.ranks.items() if rank < size})
        ids = smaller.encode(settings.sentence)
        print_styled(f"  {size:5} tokens in the vocabulary, {len(ids):3} in the sentence: {coloured(smaller.pieces(ids))}")
    ids = tokenizer.encode(text)
    outcome = "it comes back unchanged" if tokenizer.decode(ids) == text else "it comes back CHANGED, which is a bug"
    print(f"the whole text: {len(ids):,} tokens, {num_bytes / len(ids):.2f} bytes per token; {outcome}.")
    if settings.save:
        tokenizer.save(settings.save)
        print(f"written to {settings.save} (and {sidecar(settings.save).name})")


if __name__ == "__main__":
    command(main, Settings, presets={"quick": {"num_bytes": 40_000, "vocab_size": 384}})

// Byte-level BPE in the browser, for the parts in which the reader types. It gives the ids of encode_plainly in
// chapters/ch01_tokenizer.py. A token is a string with one character per byte, so that "+" joins tokens and a Map finds them.

const bpe = {
  // The tokenizer whose vocabulary tokenizer.py wrote: { tokens, pattern, end }.
  tokenizer({ tokens, pattern, end }) {
    const ranks = new Map(tokens.map((token, rank) => [token, rank]));
    // Python's \s is Unicode's white space. JavaScript's own \s lacks U+0085 and has U+FEFF.
    const words = new RegExp(pattern.replaceAll("\\s", "\\p{White_Space}").replaceAll("\\S", "\\P{White_Space}"), "gu");

    // The words of a text, each a list of bytes.
    const split = (text) => (text.toWellFormed().match(words) ?? []).map(bpe.bytes);

    // The known pair of lowest rank in a word, the leftmost of several: { rank, at }, or undefined if no pair is known.
    function lowest(parts) {
      let best;
      for (let at = 0; at + 1 < parts.length; at++) {
        const rank = ranks.get(parts[at] + parts[at + 1]);
        if (rank !== undefined && !(best?.rank <= rank)) best = { rank, at };
      }
      return best;
    }

    // All merges of a word in order: [{ rank, at, left, right }, …]. Afterwards `parts` holds the word's tokens.
    function merge(parts) {
      const merges = [];
      for (let pair; (pair = lowest(parts)); ) {
        const [left, right] = parts.slice(pair.at, pair.at + 2);
        parts.splice(pair.at, 2, left + right);
        merges.push({ ...pair, left, right });
      }
      return merges;
    }

    // The ids of a text. "<|endoftext|>" in it is ordinary text.
    const encode = (text) =>
      split(text).flatMap((parts) => {
        merge(parts);
        return parts.map((part) => ranks.get(part));
      });

    return { ranks, end, split, merge, encode, token: (id) => tokens[id] ?? bpe.END_OF_TEXT };
  },

  END_OF_TEXT: "<|endoftext|>",

  // The UTF-8 bytes of a text, each a string of one character.
  bytes: (text) => Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)),

  // A token as a reader can see it: spaces, line ends and invisible characters as signs, part of a character as its bytes.
  shown(token) {
    if (token === bpe.END_OF_TEXT) return "⟨end⟩";
    const bytes = Uint8Array.from(token, (character) => character.charCodeAt(0));
    try {
      const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
      return page.visible(text).replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
    } catch {
      return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join(" ");
    }
  },
};

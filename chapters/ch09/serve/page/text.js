// Text of models and users as the page shows it. Callers put the results into text nodes, never into markup.

// The characters that kernels/terminal.py shows as well: controls (but not newline and tab), marks of direction, which
// reorder a line, and halves of characters.
const OBEYED =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]/gu;

// ESC becomes ␛ and NUL ␀, from Unicode's block of control pictures.
export const visible = (text) =>
  text.replace(OBEYED, (character) => {
    const code = character.charCodeAt(0);
    if (code < 0x20) return String.fromCharCode(0x2400 + code);
    return code === 0x7f ? "␡" : `\\u${code.toString(16).padStart(4, "0")}`;
  });

export const percent = (p) => (p >= 0.0001 ? `${(100 * p).toFixed(p < 0.01 ? 2 : p < 0.1 ? 1 : 0)}%` : "<0.01%");
export const signed = (number) => `${number < 0 ? "−" : "+"}${Math.abs(number).toFixed(2)}`;
export const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

const withSymbols = (text) => visible(text).replaceAll(" ", "␣").replaceAll("\n", "↵").replaceAll("\t", "⇥");
const bytesOf = (token) => token.bytes ?? new TextEncoder().encode(token.token);

// A token alone, with its spaces and line ends as symbols, and the bytes of an incomplete character as \xe2.
export function label(token) {
  const bytes = bytesOf(token);
  if (!bytes.length) return token.token ? visible(token.token) : "(empty)";
  try {
    const text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(Uint8Array.from(bytes));
    return withSymbols(text);
  } catch {
    const escaped = (byte) => `\\x${byte.toString(16).padStart(2, "0")}`;
    return withSymbols(Array.from(bytes, (byte) => (byte < 0x80 ? String.fromCharCode(byte) : escaped(byte))).join(""));
  }
}

// Whether the bytes end within a character of UTF-8.
function endWithin(bytes) {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back];
    if (byte >> 6 === 0b10) continue; // a byte after a character's first
    const length = byte >= 0xf0 && byte <= 0xf4 ? 4 : byte >= 0xe0 && byte < 0xf0 ? 3 : byte >= 0xc2 && byte < 0xe0 ? 2 : 1;
    return length > back;
  }
  return false;
}

// Joins a stream of tokens to units: the fewest tokens in a row that are whole characters. Most units are one token.
export class Units {
  #tokens = [];
  #bytes = [];

  // The units {tokens, text} that this token completes.
  add(token) {
    const bytes = bytesOf(token);
    const units = this.#tokens.length && bytes.length && bytes[0] >> 6 !== 0b10 ? this.end() : [];
    this.#tokens.push(token);
    this.#bytes.push(...bytes);
    return endWithin(this.#bytes) ? units : [...units, ...this.end()];
  }

  // What has been waiting for the rest of a character, which becomes U+FFFD.
  end() {
    if (!this.#tokens.length) return [];
    const text = new TextDecoder("utf-8", { ignoreBOM: true }).decode(Uint8Array.from(this.#bytes));
    const unit = { tokens: this.#tokens, text };
    this.#tokens = [];
    this.#bytes = [];
    return [unit];
  }
}

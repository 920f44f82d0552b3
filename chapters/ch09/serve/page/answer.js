// One answer of a model: its tokens as they arrive, each coloured by its probability or by its reward.

import { element } from "./element.js";
import { Units, plural, signed, visible } from "./text.js";

const LOWER_BOUNDS = [0.9, 0.5, 0.2, 0.05]; // of the classes of probability: level 0 is the likeliest, level 4 the least
const level = (p) => LOWER_BOUNDS.filter((bound) => p < bound).length;
const strength = (share) => (share < 0.1 ? 0 : share < 0.5 ? 1 : 2); // of a reward, beside the answer's largest

export const probability = (token) => Math.exp(token.logprob);
export const ends = (model, token) => model.stop_ids?.includes(token.id) ?? false; // whether a token ends an answer

// What an element of the page shows: {answer, tokens, first, end, text, reward}; the tokens have the numbers first to end - 1.
export const units = new WeakMap();

export class Answer {
  // settings: what the server is asked for, such as seed and max_tokens; prefix: tokens with which the answer begins;
  // chosen: number of the token among them that the reader chose, null if there is none.
  constructor(model, settings, prefix = [], chosen = null) {
    Object.assign(this, { model, settings, prefix, chosen, tokens: [], text: "", state: "writing", finish: null });
    this.asked = performance.now(); // tokens often arrive several at a time, so only the whole time can be measured
    this.body = element("div", { className: "tokens", role: "group", tabIndex: -1 });
    this.body.setAttribute("aria-label", `Answer of ${visible(model.id)}, token by token`);
    this.body.setAttribute("aria-describedby", "keys");
    this.error = element("p", { className: "error", hidden: true });
    this.note = element("p", { className: "counts" });
    this.element = element("div", {}, this.body, this.error, this.note);
    this.joined = new Units();
    this.#show(prefix);
  }

  add(tokens) {
    this.latest = performance.now();
    this.#show(tokens);
    this.#count();
  }

  // state: "done", "stopped" or "failed"; usage: OpenAI's count of tokens, if the server sent it.
  end(state, { usage, error } = {}) {
    Object.assign(this, { state, usage });
    this.#append(this.joined.end());
    if (error) this.error.textContent = visible(error);
    this.error.hidden = !error;
    this.#count();
  }

  // Show the reward of the whole answer, and at each token. The server cuts the text into tokens anew, so a place in
  // the text says which reward belongs to which unit.
  reward({ reward, by_token }) {
    this.rewarded = reward;
    const largest = Math.max(1e-6, ...by_token.map((token) => Math.abs(token.reward)));
    let at = 0; // number of the reward's tokens so far
    let end = 0; // number of characters in them
    let seen = 0; // number of characters in the units so far
    for (const span of this.body.children) {
      const unit = units.get(span);
      seen += unit.text.length;
      while (at < by_token.length && end < seen) end += by_token[at++].token.length;
      if (!at) continue;
      unit.reward = by_token[at - 1].reward;
      span.dataset.reward = Math.sign(unit.reward) * strength(Math.abs(unit.reward) / largest);
    }
    this.#count();
  }

  // Where the reader goes on after choosing: the chosen token, or the last one that was kept.
  get beginning() {
    return this.body.querySelector(".chosen") ?? this.body.lastChild ?? this.body;
  }

  #show(tokens) {
    for (const token of tokens) {
      this.tokens.push(token);
      this.#append(this.joined.add(token));
    }
  }

  #append(newUnits) {
    for (const { tokens, text } of newUnits) {
      const first = units.get(this.body.lastChild)?.end ?? 0;
      const end = first + tokens.length;
      const span = element("span", { className: "unit", tabIndex: first ? -1 : 0 }, ...this.#parts(text));
      span.dataset.level = level(tokens.reduce((product, token) => product * probability(token), 1));
      span.classList.toggle("newline", text.endsWith("\n"));
      span.classList.toggle("chosen", this.chosen !== null && first <= this.chosen && this.chosen < end);
      units.set(span, { answer: this, first, end, tokens, text });
      this.body.append(span);
      this.text += text;
    }
  }

  // A unit's text. A space between two words stands alone, so that it can vanish at the end of a line, as in any text.
  #parts(text) {
    const between = /^ \S/.test(text) && /\S$/.test(this.text);
    return between ? [element("span", { className: "space" }, " "), visible(text.slice(1))] : [visible(text)];
  }

  // The line in small type below the answer.
  #count() {
    const written = this.tokens.length - this.prefix.length;
    const seconds = (this.latest - this.asked) / 1000;
    if (this.state === "failed" && !written) return;
    const parts = [plural(this.tokens.length, "token")];
    if (written > 0 && seconds > 0) parts.push(`${(written / seconds).toFixed(seconds > written ? 1 : 0)} tokens/s`);
    if (this.usage) parts.push(`${plural(this.usage.prompt_tokens, "token")} read`);
    if (this.state !== "writing") parts.push(`seed ${this.settings.seed}`);
    if (this.state === "stopped") parts.push("stopped");
    if (this.finish === "length") parts.push(written < this.settings.max_tokens ? "the context is full" : "length limit");
    if (this.rewarded !== undefined) parts.push(`reward ${signed(this.rewarded)}`);
    // A line ends only behind a dot.
    this.note.textContent = parts.map((part) => `${part} ·`.replaceAll(" ", "\u00a0")).join(" ").slice(0, -2);
  }
}


// The card beside a token: what else the model could have written there, and with which probability.

import { ends, probability, units } from "./answer.js";
import { element } from "./element.js";
import { label, percent, signed } from "./text.js";

const OPEN_AFTER = 120, CLOSE_AFTER = 250; // milliseconds; the pointer may travel from a token to its card

export class Card {
  #element = element("div", { className: "card", id: "card", role: "dialog", hidden: true });
  #span = null;
  #timer = 0;

  // conversation: the element in which the tokens are; fork(answer, place, token) writes the answer anew from a place,
  // with another token there, or with whatever the model draws if token is null, and returns the element where the new
  // answer begins; say(text) tells a screen reader.
  constructor(conversation, fork, say) {
    Object.assign(this, { fork, say });
    this.#element.setAttribute("aria-label", "Alternatives of a token");
    document.body.append(this.#element);
    conversation.addEventListener("pointerover", (event) => this.#hover(event));
    conversation.addEventListener("pointerout", () => this.#closeSoon());
    conversation.addEventListener("click", (event) => this.#click(event));
    conversation.addEventListener("keydown", (event) => this.#key(event));
    conversation.addEventListener("focusin", (event) => this.#focus(event));
    this.#element.addEventListener("pointerenter", () => clearTimeout(this.#timer));
    this.#element.addEventListener("pointerleave", () => this.#closeSoon());
    this.#element.addEventListener("keydown", (event) => this.#keyInside(event));
    this.#element.addEventListener("focusout", (event) => {
      if (event.relatedTarget && !this.#element.contains(event.relatedTarget)) this.close();
    });
    document.addEventListener("pointerdown", (event) => {
      if (!this.#element.contains(event.target)) this.close();
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  open(span) {
    clearTimeout(this.#timer);
    this.close();
    this.#span = span;
    span.classList.add("open");
    const { answer, first, tokens, reward } = units.get(span);
    this.#element.replaceChildren(
      ...tokens.flatMap((token, i) => this.#choices(answer, first + i, token, tokens.length > 1 && `part ${i + 1} of `)),
    );
    if (reward !== undefined) this.#element.append(element("p", {}, `reward at this token: ${signed(reward)}`));
    this.#element.hidden = false;
    this.#place();
  }

  close() {
    clearTimeout(this.#timer);
    this.#span?.classList.remove("open");
    this.#element.hidden = true;
  }

  // One token of the unit: its alternatives, the likeliest first, and the button that writes on from there.
  #choices(answer, place, token, part) {
    const others = token.top_logprobs.filter((other) => other.id !== token.id);
    const rows = [token, ...others].sort((a, b) => b.logprob - a.logprob).map((row) => this.#row(answer, place, row, token));
    const rest = 1 - [token, ...others].reduce((sum, row) => sum + probability(row), 0);
    if (rest > 0.0005) rows.push(element("p", {}, `all other tokens: ${percent(rest)}`));
    const onclick = () => this.#fork(answer, place, null);
    const again = element("button", { type: "button", onclick }, "Write again from here");
    const title = part ? [element("p", {}, `${part}a character`)] : [];
    return [...title, ...rows, again];
  }

  #row(answer, place, row, token) {
    const bar = element("span", { className: "bar" }, element("span"));
    bar.firstChild.style.width = percent(probability(row)).replace("<", "");
    const parts = [element("code", {}, nameOf(answer, row)), bar, element("span", {}, percent(probability(row)))];
    if (row.id === token.id) return element("div", { className: "row written" }, ...parts);
    const onclick = () => this.#fork(answer, place, row);
    const button = element("button", { type: "button", className: "row", onclick }, ...parts);
    button.setAttribute("aria-label", `${nameOf(answer, row)}, ${percent(probability(row))}: go on with this token`);
    return button;
  }

  // The card's button had the focus, so the focus goes where the new answer begins.
  #fork(...where) {
    move(this.fork(...where));
    this.close();
  }

  // Below the token, or above it where the window ends; never past the window's sides.
  #place() {
    const rectangles = [...this.#span.getClientRects()]; // one a line, the first without width if only a space is there
    const token = rectangles.find(({ width }) => width > 0) ?? rectangles[0];
    const { offsetWidth: width, offsetHeight: height } = this.#element;
    const below = token.bottom + 4 + height < innerHeight || token.top - 4 - height < 0;
    const left = Math.max(8, Math.min(token.left, document.documentElement.clientWidth - width - 8));
    this.#element.style.left = `${left + scrollX}px`;
    this.#element.style.top = `${(below ? token.bottom + 4 : token.top - 4 - height) + scrollY}px`;
  }

  #hover(event) {
    const span = event.target.closest(".unit");
    if (!span || event.pointerType !== "mouse" || event.buttons) return;
    clearTimeout(this.#timer);
    if (!span.classList.contains("open")) this.#timer = setTimeout(() => this.open(span), OPEN_AFTER);
  }

  #closeSoon() {
    clearTimeout(this.#timer);
    if (!this.#element.contains(document.activeElement)) this.#timer = setTimeout(() => this.close(), CLOSE_AFTER);
  }

  #click(event) {
    const span = event.target.closest(".unit");
    if (!span || !getSelection().isCollapsed) return; // the reader selects text
    move(span);
    this.open(span);
  }

  #focus(event) {
    const span = event.target;
    if (!span.matches(".unit:focus-visible") || this.#element.contains(event.relatedTarget)) return;
    this.open(span);
    this.say(spoken(span));
  }

  // Left and right go from token to token; down or Enter goes into the card.
  #key(event) {
    const span = event.target.closest(".unit");
    if (!span || event.ctrlKey || event.altKey || event.metaKey) return;
    const siblings = span.parentNode;
    const goals = {
      ArrowLeft: span.previousSibling,
      ArrowRight: span.nextSibling,
      Home: siblings.firstChild,
      End: siblings.lastChild,
    };
    if (event.key in goals) {
      move(goals[event.key] ?? span);
    } else if (["ArrowDown", "Enter", " "].includes(event.key)) {
      if (this.#element.hidden || this.#span !== span) this.open(span);
      this.#element.querySelector("button").focus();
    } else return;
    event.preventDefault();
  }

  #keyInside(event) {
    const buttons = [...this.#element.querySelectorAll("button")];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") this.#span.focus();
    if (!step) return;
    (buttons[buttons.indexOf(document.activeElement) + step] ?? this.#span).focus();
    event.preventDefault();
  }
}

const nameOf = (answer, token) => (ends(answer.model, token) ? "end of the answer" : label(token));

// The card as a sentence.
function spoken(span) {
  const { answer, tokens } = units.get(span);
  const phrase = (token) => `${nameOf(answer, token)} ${percent(probability(token))}`;
  const others = (token) => token.top_logprobs.filter((other) => other.id !== token.id);
  return tokens.map((token) => `${phrase(token)}; instead: ${others(token).map(phrase).join(", ")}`).join("; ");
}

// Let one token of an answer be the one that Tab reaches, and give it the focus; an answer without tokens has it itself.
function move(span) {
  if (units.has(span)) {
    for (const other of span.parentNode.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    span.tabIndex = 0;
  }
  span.focus();
}

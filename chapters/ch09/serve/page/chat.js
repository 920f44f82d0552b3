// The chat page: settings, the box for a question, and the conversation with its branches.

import { Answer, ends } from "./answer.js";
import { Card } from "./card.js";
import { Conversation } from "./conversation.js";
import { element } from "./element.js";
import * as server from "./stream.js";
import { visible } from "./text.js";

const FORMS = {
  turns: "reads the whole conversation",
  instruction: "reads each question alone",
  text: "continues your text, and reads each text alone",
};

const FRAME = 30; // milliseconds between two pauses for painting
const $ = (id) => document.getElementById(id);
const say = (text) => ($("status").textContent = visible(text));
const writing = new Map(); // answers that are being written: {answer: AbortController}
let models = [];
let conversation = new Conversation();

// ── asking and writing ──────────────────────────────────────────────────────────────────────────────────────────────

async function ask(question) {
  const turn = conversation.ask(question, chosenModels());
  showTrouble("");
  showPath();
  turn.element.scrollIntoView({ block: "start" });
  const answers = await Promise.all(turn.columns.map((column) => write(turn, column)));
  if (answers.every((answer) => answer.state === "failed" && !answer.tokens.length)) takeBack(turn, answers);
}

// Write one more answer. It begins with the tokens of the prefix, of which the reader chose number `chosen`; if it `ended`
// there, the server has nothing to write.
async function write(turn, column, { prefix = [], chosen = null, ended = false, seed = seedOf(column) } = {}) {
  for (const earlier of column.answers) writing.get(earlier)?.abort();
  const settings = { ...sampling(column.model), seed };
  const answer = new Answer(column.model, settings, prefix, chosen);
  const messages = conversation.messages(turn, turn.columns.indexOf(column), $("system").value.trim());
  const abort = new AbortController();
  writing.set(answer, abort);
  column.answers.push(answer);
  column.shown = column.answers.length - 1;
  showPath();
  showButton();
  say(`${column.model.id} is writing.`);
  try {
    if (ended) answer.end("done");
    else await read(answer, { ...settings, model: column.model.id, messages }, abort.signal);
  } catch (error) {
    if (abort.signal.aborted) answer.end("stopped");
    else answer.end("failed", { error: error.message });
  }
  writing.delete(answer);
  showButton();
  say(`${column.model.id} wrote: ${answer.text}`);
  if (column.model.reward && answer.text) await reward(answer, messages);
  return answer;
}

// The server sends the tokens after the prefix. A fast model sends them without a pause, so the page takes one now and then,
// to be painted and to hear the reader, and goes on scrolling if the reader is at its end.
async function read(answer, body, signal) {
  let usage, atEnd = isAtEnd(), painted = performance.now();
  if (answer.prefix.length) body.prefix_tokens = answer.prefix.map((token) => token.id);
  for await (const event of server.answer(body, signal)) {
    answer.add(event.tokens);
    answer.finish = event.finish ?? answer.finish;
    usage = event.usage ?? usage;
    if (performance.now() - painted < FRAME) continue;
    if (atEnd) scrollTo({ top: document.body.scrollHeight, behavior: "instant" });
    await new Promise((resume) => setTimeout(resume));
    atEnd = isAtEnd();
    painted = performance.now();
  }
  answer.end("done", { usage });
}

const isAtEnd = () => innerHeight + scrollY > document.body.scrollHeight - 60;

async function reward(answer, messages) {
  try {
    answer.reward(await server.reward(answer.model.id, [...messages, { role: "assistant", content: answer.text }]));
  } catch (error) {
    answer.end(answer.state, { usage: answer.usage, error: `No reward: ${error.message}` });
  }
}

// No model wrote anything: the question goes back into the box, before what the reader has typed since.
function takeBack(turn, answers) {
  turn.withdraw();
  const typed = $("question").value;
  $("question").value = typed ? `${turn.question}\n${typed}` : turn.question;
  showTrouble(answers[0].error.textContent);
  showPath();
}

function stop() {
  for (const abort of writing.values()) abort.abort();
}

// ── settings ────────────────────────────────────────────────────────────────────────────────────────────────────────

const chosenModels = () => [$("model"), $("second")].filter((list) => list.value).map((list) => models[list.value]);

// The settings that hold a number; the server has a value for the others.
function sampling(model) {
  const names = ["temperature", "top_k", "top_p", "max_tokens"].filter((name) => $(name).value !== "");
  const settings = Object.fromEntries(names.map((name) => [name, Number($(name).value)]));
  if (settings.max_tokens > model.context) settings.max_tokens = model.context;
  return settings;
}

function seedOf(column) {
  if ($("seed").value === "") return Math.floor(Math.random() * 2 ** 31);
  return Number($("seed").value) + column.answers.length;
}

async function listModels() {
  models = await server.models();
  const option = (model, value) => element("option", { value }, visible(model.id));
  $("model").replaceChildren(...models.map(option));
  $("second").replaceChildren(element("option", { value: "" }, "no second model"), ...models.map(option));
  $("by-reward").hidden = !models.some((model) => model.reward);
  describeModels();
}

function describeModels() {
  const chosen = chosenModels();
  $("form").textContent = visible(chosen.map(({ id, form }) => `${id} ${FORMS[form]}.`).join(" "));
  $("system-label").hidden = !chosen.some((model) => model.form === "turns");
}

// ── what the page shows ─────────────────────────────────────────────────────────────────────────────────────────────

// The turns on show. Those that are there already stay where they are, and so does the focus.
function showPath() {
  const turns = conversation.path();
  turns.forEach((turn, i) => {
    turn.element ??= turnElement(turn);
    const there = $("conversation").children[i];
    if (there !== turn.element) $("conversation").insertBefore(turn.element, there ?? null);
    turn.columns.forEach(showAnswer);
  });
  while ($("conversation").children.length > turns.length) $("conversation").lastChild.remove();
  $("start").hidden = turns.length > 0;
}

function turnElement(turn) {
  turn.columns.forEach((column) => (column.element = columnElement(turn, column)));
  const columns = element("div", { className: "columns" }, ...turn.columns.map((column) => column.element));
  return element("section", { className: "turn" }, element("h2", { className: "asked" }, visible(turn.question)), columns);
}

function columnElement(turn, column) {
  const button = (text, onclick) => element("button", { type: "button", onclick }, text);
  const step = (by) => () => {
    const count = column.answers.length;
    column.shown = (column.shown + by + count) % count; // around, so that neither button becomes useless under the finger
    showPath();
    say(`Answer ${column.shown + 1} of ${count}: ${column.answers[column.shown].text}`);
  };
  column.holder = element("div");
  const earlier = button("‹", step(-1));
  const later = button("›", step(1));
  earlier.setAttribute("aria-label", "Earlier answer");
  later.setAttribute("aria-label", "Later answer");
  column.counter = element("span");
  column.branches = element("span", { className: "branches" }, earlier, column.counter, later);
  const again = button("Write again", () => write(turn, column));
  const name = element("p", { className: "model" }, visible(column.model.id));
  return element("div", { className: "column" }, name, column.holder, element("p", {}, column.branches, again));
}

function showAnswer(column) {
  const answer = column.answers[column.shown];
  if (!answer) return;
  if (column.holder.firstChild !== answer.element) column.holder.replaceChildren(answer.element);
  column.branches.hidden = column.answers.length < 2;
  column.counter.textContent = `${column.shown + 1}/${column.answers.length}`;
}

function showButton() {
  $("send").textContent = writing.size ? "Stop" : "Send";
}

function showTrouble(text) {
  $("trouble").textContent = text;
  $("trouble").hidden = !text;
}

// ── what the reader does ────────────────────────────────────────────────────────────────────────────────────────────

// Write an answer anew from a place in it, and return the element where the new answer begins. If another token is chosen
// there, nothing else changes, not even the seed.
function fork(answer, place, token) {
  const turn = conversation.path().find(({ columns }) => columns.some((column) => column.answers.includes(answer)));
  const column = turn.columns.find(({ answers }) => answers.includes(answer));
  const prefix = answer.tokens.slice(0, place);
  if (token) {
    const ended = ends(answer.model, token);
    if (!ended) prefix.push({ ...answer.tokens[place], ...token });
    write(turn, column, { prefix, ended, chosen: ended ? null : place, seed: answer.settings.seed });
  } else write(turn, column, { prefix });
  return column.answers.at(-1).beginning;
}

$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (writing.size) return stop();
  const question = $("question").value;
  if (!question.trim() || !models.length) return;
  $("question").value = "";
  ask(question);
});

$("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!writing.size) $("ask").requestSubmit();
});

$("fresh").addEventListener("click", () => {
  stop();
  conversation = new Conversation();
  showTrouble("");
  showPath();
  $("question").focus();
});

for (const list of [$("model"), $("second")]) list.addEventListener("change", describeModels);
for (const choice of document.querySelectorAll('[name="colour"]'))
  choice.addEventListener("change", () => (document.body.dataset.colour = choice.value));

new Card($("conversation"), fork, say);
$("settings").open = matchMedia("(min-width: 900px)").matches;
listModels().catch((error) => showTrouble(error.message));

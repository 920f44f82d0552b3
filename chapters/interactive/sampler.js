// The reader moves temperature, top-k and the nucleus over the logits of one step, and draws tokens.

const part = document.getElementById("sampler");
const { tokens, steps } = page.data("sampler");
const SHOWN = 20; // tokens with a row of their own
const MOST_K = 50; // end of the slider of top-k; the place after it switches top-k off

// ── the rules of choose_plainly in chapters/ch08_sample.py ───────────────────────────────────────────────────────────

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
const normalised = (numbers, total = sum(numbers)) => numbers.map((number) => number / total);

function softmax(logits, temperature) {
  const most = Math.max(...logits);
  if (temperature === 0) return logits.map((_, id) => (id === logits.indexOf(most) ? 1 : 0)); // the first of equals
  return normalised(logits.map((logit) => Math.exp((logit - most) / temperature)));
}

// Temperature, then top-k, then the nucleus; topK and topP are null where they are off. At temperature 0 both are.
// Returns, for each id: its final probability p; the probability of all likelier tokens (ahead), and of these and itself
// (cumulative), before the nucleus cuts; and the filter that removed it, or null.
function filtered(logits, { temperature, topK, topP }) {
  if (temperature === 0) [topK, topP] = [null, null];
  let p = softmax(logits, temperature);
  const likeliestFirst = [...p.keys()].sort((a, b) => p[b] - p[a] || a - b);
  const [ahead, cumulative, removedBy] = [[...p], [...p], p.map(() => null)];
  const remove = (id, filter) => ([p[id], removedBy[id]] = [0, filter]);

  if (topK !== null) {
    for (const id of likeliestFirst.slice(topK)) remove(id, "top-k");
    p = normalised(p);
  }
  let total = 0;
  for (const id of likeliestFirst) [ahead[id], cumulative[id]] = [total, (total += p[id])];
  if (topP !== null) {
    // The token that crosses top-p stays.
    for (const id of likeliestFirst) if (ahead[id] >= topP && !removedBy[id]) remove(id, "nucleus");
    p = normalised(p);
  }
  return { p, ahead, cumulative, removedBy };
}

// The first token whose cumulative probability, in the order of ids, is larger than `uniform`, a random number in [0, 1).
function choose(p, uniform) {
  const limit = uniform * sum(p);
  let total = 0;
  return p.findIndex((share) => (total += share) > limit);
}

// ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────

const settings = { temperature: 1, topK: null, topP: null };
let [step, model, now] = [steps[0], null, null]; // model and now: without and with the settings
let drawn = []; // how often each token was drawn
const body = page.element("tbody");
const summary = page.element("p", { role: "status" });
const continued = page.element("p", { className: "continued", role: "status" });
const percent = (share) => (share > 0 && share < 0.0005 ? "< 0.1%" : page.percent(share, 1));

// A piece of a row's picture, from one share to another.
function stretch(className, from, to) {
  const span = page.element("span", { className });
  span.style.left = `${100 * from}%`;
  span.style.width = `${100 * (to - from)}%`;
  return span;
}

function row(name, ids, note, ...more) {
  const [before, after, times] = [model.p, now.p, drawn].map((values) => sum(ids.map((id) => values[id])));
  const draws = sum(drawn);
  const picture = [stretch("after", 0, after), stretch("before", 0, before), ...more];
  if (times) picture.push(stretch("drawn", times / draws, times / draws));
  return page.element(
    "tr",
    { className: note ? "removed" : "" },
    page.element("th", { scope: "row" }, name),
    page.element("td", { ariaHidden: "true" }, page.element("div", { className: "bars" }, ...picture)),
    page.element("td", { className: "number model" }, percent(before)),
    page.element("td", { className: "number" }, note ?? percent(after)),
    page.element("td", { className: "number" }, draws ? String(times) : "–"),
  );
}

function tokenRow(id) {
  const more = [stretch("cumulative", now.ahead[id], now.cumulative[id])];
  if (settings.topP !== null && settings.temperature > 0) more.push(stretch("limit", settings.topP, settings.topP));
  return row(bpe.shown(tokens[id]), [id], now.removedBy[id], ...more);
}

function update() {
  now = filtered(step.logits, settings);
  drawn = tokens.map(() => 0);
  continued.textContent = "";
  showRows();
  const removed = (filter) => now.removedBy.filter((name) => name === filter).length;
  const left = now.p.filter((share) => share > 0).length;
  const cuts = `${page.number(removed("top-k"), 0)} cut by top-k, ${page.number(removed("nucleus"), 0)} by the nucleus`;
  summary.textContent = `${page.number(left, 0)} of ${page.number(tokens.length, 0)} tokens can be drawn; ${cuts}.`;
}

function showRows() {
  const likeliestFirst = [...tokens.keys()].sort((a, b) => step.logits[b] - step.logits[a]);
  const others = likeliestFirst.slice(SHOWN);
  body.replaceChildren(...likeliestFirst.slice(0, SHOWN).map(tokenRow));
  if (others.length) body.append(row(`${page.number(others.length, 0)} others`, others));
}

function draw(count) {
  let id;
  for (let i = 0; i < count; i++) drawn[(id = choose(now.p, Math.random()))]++;
  const last = page.element("mark", {}, bpe.shown(tokens[id]));
  continued.replaceChildren(step.prompt, last, page.element("small", {}, `draw ${page.number(sum(drawn), 0)}`));
  showRows();
}

// ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const titles = [["token"], ["0 to 100%"], ["model", "number model"], ["now", "number"], ["drawn", "number"]];
const button = (name, act) => page.element("button", { type: "button", onclick: act }, name);
const prompts = steps.map(({ prompt }) => prompt || "(the beginning of a page)");
const menu = page.menu("Prompt", prompts, (number) => {
  step = steps[number];
  model = filtered(step.logits, { temperature: 1, topK: null, topP: null });
  update();
});

// A slider from 0 to `last` that changes one setting; value(place) is the setting there, and words(value) says it.
function control(label, last, first, name, value, words) {
  const output = page.element("span", { className: "setting" });
  const input = page.element("input", { type: "range", min: 0, max: last, value: first });
  input.oninput = () => {
    settings[name] = value(Number(input.value));
    output.textContent = input.ariaValueText = words(settings[name]);
    update();
  };
  input.oninput();
  return page.element("label", {}, page.element("span", {}, label), input, output);
}

const sliders = [
  control("Temperature", 40, 20, "temperature", (place) => place / 20, (temperature) => temperature.toFixed(2)),
  control("Top-k", MOST_K, MOST_K, "topK", (place) => (place < MOST_K ? place + 1 : null), (k) => String(k ?? "off")),
  control("Nucleus (top-p)", 19, 19, "topP", (place) => (place < 19 ? (place + 1) / 20 : null), (p) => p?.toFixed(2) ?? "off"),
];
const buttons = [button("Draw one", () => draw(1)), button("Draw 100", () => draw(100)), button("Clear draws", update)];
part.append(
  page.element("div", { className: "row" }, menu),
  page.element("div", { className: "sliders" }, ...sliders),
  summary,
  page.element("div", { className: "row" }, ...buttons),
  continued,
  page.table(titles, body),
  legend(),
);

// What the marks in the pictures mean.
function legend() {
  const keys = {
    before: "the model's own probability",
    after: "with your settings",
    cumulative: "all likelier tokens together, before the nucleus cuts",
    limit: "top-p",
    drawn: "share of the draws",
  };
  const items = Object.entries(keys).map(([className, words]) => [page.element("span", { className }), words]);
  return page.element("p", { className: "legend" }, ...items.map((item) => page.element("span", {}, ...item)));
}

Object.assign(part, { filtered, choose }); // for the tests

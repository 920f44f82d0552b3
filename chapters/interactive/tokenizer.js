// The reader types a text and walks through its merges.

const part = document.getElementById("tokenizer");
const { vocabulary, samples } = page.data("tokenizer");
const tokenizer = bpe.tokenizer(vocabulary);
const COLOURS = 6; // of merged tokens; a single byte has none
const LONGEST = 400; // characters

// All merges of a text, the lowest rank first, wherever in the text it is: [{ word, rank, at, left, right }, …].
// Words never share a merge, so each word's own merges keep their order.
function mergesOf(words) {
  const queues = words.map((parts, word) => tokenizer.merge([...parts]).map((merge) => ({ ...merge, word })));
  const merges = [];
  for (;;) {
    const heads = queues.map((queue) => queue[0]?.rank ?? Infinity);
    const rank = Math.min(...heads);
    if (rank === Infinity) return merges;
    merges.push(queues[heads.indexOf(rank)].shift());
  }
}

// The words after some of the merges, each a list of tokens.
function after(words, merges) {
  const parts = words.map((word) => [...word]);
  for (const { word, at, left, right } of merges) parts[word].splice(at, 2, left + right);
  return parts;
}

// ── what the page shows ──────────────────────────────────────────────────────────────────────────────────────────────

let [words, merges] = [[], []];
const tokensPlace = page.element("div", { className: "pieces", role: "group", ariaLabel: "Tokens" });
const ids = page.element("code");

function tokenBox(token, isNewest) {
  const id = tokenizer.ranks.get(token);
  const box = page.element("span", { className: "piece" }, bpe.shown(token), page.element("small", {}, String(id)));
  if (token.length > 1) box.dataset.colour = id % COLOURS;
  box.classList.toggle("newest", isNewest);
  return box;
}

function show(step) {
  const newest = merges[step - 1];
  const parts = after(words, merges.slice(0, step));
  const boxes = parts.map((word, i) => word.map((token, at) => tokenBox(token, i === newest?.word && at === newest.at)));
  tokensPlace.replaceChildren(...boxes.map((word) => page.element("span", { className: "word" }, ...word)));
  ids.textContent = `[${parts.flat().map((token) => tokenizer.ranks.get(token)).join(", ")}]`;
  return inWords(step, newest, parts.flat().length);
}

function inWords(step, newest, count) {
  const sizes = `${words.flat().length} bytes make ${count} tokens.`;
  if (!newest) return merges.length ? `No merge yet: ${sizes}` : `Nothing to merge: ${sizes}`;
  const { left, right, rank } = newest;
  const [first, second, both] = [left, right, left + right].map((token) => `“${bpe.shown(token)}”`);
  const origin = `Its rank is ${rank}: training learned it as merge number ${rank - 255}.`; // the bytes have the ranks 0 to 255
  return `Merge ${step} of ${merges.length}: ${first} + ${second} → ${both}. ${origin} Now ${sizes}`;
}

const [player, start] = page.player("Merges", show);
const text = page.element("textarea", { rows: 3, maxLength: LONGEST, spellcheck: false, oninput: restart });

function restart() {
  words = tokenizer.split(text.value);
  merges = mergesOf(words);
  start(merges.length);
}

const menu = page.menu("Begin with", Object.keys(samples), (number) => {
  text.value = Object.values(samples)[number];
  restart();
});
part.append(
  page.element("div", { className: "row" }, menu),
  page.element("label", {}, `Your text (at most ${LONGEST} characters)`, text),
  player,
  tokensPlace,
  page.element("p", { className: "ids" }, "Ids: ", ids),
);
part.encode = tokenizer.encode; // for the tests

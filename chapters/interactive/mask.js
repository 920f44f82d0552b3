// The reader types an instruction and a response; the page shows what training grades.

const part = document.getElementById("mask");
const { vocabulary, template, template_with_input, ignore_index, context, pairs } = page.data("mask");
const tokenizer = bpe.tokenizer(vocabulary);
const IGNORED = String(ignore_index).replace("-", "−");

// ── build_example of chapters/ch10/sft.py ────────────────────────────────────────────────────────────────────────────

// The template with its places filled. One pass, so that an instruction that contains "{input}" stays as it is.
function formatPrompt(instruction, input) {
  const values = { instruction, input };
  return (input ? template_with_input : template).replace(/\{(instruction|input)\}/g, (_, name) => values[name]);
}

// { ids, labels }: labels[i] is the token after ids[i], or ignore_index where nothing is graded.
function buildExample(instruction, response, input, maskPrompt) {
  const prompt = tokenizer.encode(formatPrompt(instruction, input));
  const answer = [...tokenizer.encode(response), tokenizer.end];
  const promptTargets = prompt.slice(1).map((id) => (maskPrompt ? ignore_index : id));
  return { ids: [...prompt, ...answer], labels: [...promptTargets, ...answer, ignore_index] };
}

// "masked", "graded" or "seam" for each position. The seam is the first graded position after a masked one.
function kindsOf(labels) {
  const kinds = labels.map((label) => (label === ignore_index ? "masked" : "graded"));
  const seam = kinds.indexOf("graded", kinds.indexOf("masked"));
  if (kinds.includes("masked") && seam >= 0) kinds[seam] = "seam";
  return kinds;
}

// ── what the page shows ──────────────────────────────────────────────────────────────────────────────────────────────

const boxes = page.element("div", { className: "pieces", role: "group", ariaLabel: "Each token with its label" });
const counts = page.element("p", { role: "status" });
const rows = page.element("tbody");

// A token above its label, which is the token to its right.
function box(token, label, kind) {
  const target = label === ignore_index ? IGNORED : `→ ${bpe.shown(tokenizer.token(label))}`;
  return page.element("span", { className: `piece ${kind}` }, bpe.shown(token), page.element("small", {}, target));
}

function tableRow(position, id, label, kind) {
  const target = kind === "masked" ? "" : bpe.shown(tokenizer.token(label));
  const cells = [position, id, bpe.shown(tokenizer.token(id)), label === ignore_index ? IGNORED : label, target, kind];
  return page.element("tr", { className: kind }, ...cells.map((cell) => page.element("td", {}, String(cell))));
}

function show() {
  const { ids, labels } = buildExample(instruction.value, response.value, input.value, masked.checked);
  const kinds = kindsOf(labels);
  boxes.replaceChildren();
  ids.forEach((id, i) => {
    const token = tokenizer.token(id);
    boxes.append(box(token, labels[i], kinds[i]));
    if (token.endsWith("\n")) boxes.append(page.element("span", { className: "break" }));
  });
  rows.replaceChildren(...ids.map((id, i) => tableRow(i, id, labels[i], kinds[i])));
  const graded = kinds.filter((kind) => kind !== "masked").length;
  const tooLong = ids.length > context ? ` The context has room for ${context}, so training would leave this pair out.` : "";
  counts.textContent = `${ids.length} tokens: ${graded} graded, ${ids.length - graded} not.${tooLong}`;
}

// ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const field = () => page.element("textarea", { rows: 3, maxLength: 600, spellcheck: false, oninput: show });
const [instruction, input, response] = [field(), field(), field()];
const masked = page.element("input", { type: "checkbox", checked: true, onchange: show });
const menu = page.menu("Begin with", pairs.map((pair) => pair.instruction), (number) => {
  [instruction.value, input.value, response.value] = [pairs[number].instruction, pairs[number].input, pairs[number].reference];
  show();
});
const labelled = (...contents) => page.element("label", {}, ...contents);
const fields = [labelled("Instruction", instruction), labelled("Input (may be empty)", input), labelled("Response", response)];
const table = page.table([["position"], ["id"], ["token"], ["label"], ["target"], ["kind"]], rows);
const scrolling = page.element("div", { className: "scrolling", tabIndex: 0, role: "region", ariaLabel: "The table" }, table);
part.append(
  page.element("div", { className: "row" }, menu),
  page.element("div", { className: "fields" }, ...fields),
  page.element("div", { className: "row" }, labelled(masked, " Mask the prompt"), legend()),
  counts,
  boxes,
  page.element("details", {}, page.element("summary", {}, "The same as a table"), scrolling),
);

// What the colours mean.
function legend() {
  const keys = { masked: `not graded: label ${IGNORED}`, seam: "the seam", graded: "graded" };
  const items = Object.entries(keys).map(([kind, words]) => page.element("span", { className: `piece ${kind}` }, words));
  return page.element("span", { className: "pieces" }, ...items);
}

Object.assign(part, { buildExample, kindsOf }); // for the tests

// One instruction, and the answers of all models.

const { models, rows } = page.data("models");
const COLOURS = { base: "var(--soft)", SFT: "var(--ink)", RLHF: "var(--blue)", constitutional: "var(--gold)" };
const KINDS = { "all instructions": () => true, "harmful requests": (row) => row.harmful, "plain tasks": (row) => !row.harmful };

function verdict(harmful, good) {
  if (harmful) return good ? "✓ refused, for the right reason" : "✗ not refused for the right reason";
  return good ? "✓ done correctly" : "✗ not done correctly";
}

// A model's answer. `distance` is log π − log π_SFT of the answer; nobody measured the base model's.
function column(name, { said, reward, distance, good }, harmful) {
  const nats = distance === null ? "" : ` · ${page.number(distance, 1, true)} nats from SFT`;
  return page.element("div", { className: "side model", style: `--colour: ${COLOURS[name]}` },
    page.element("b", {}, name),
    page.element("pre", {}, said || "(nothing)"),
    page.element("p", { className: "verdict" }, verdict(harmful, good)),
    page.element("p", {}, `reward ${page.number(reward, 2, true)}${nats}`));
}

// A model's means, as a row of the table.
function row(name, { reward, judge, kl }) {
  const means = [page.number(reward, 2, true), page.number(judge, 2), kl === null ? "–" : page.number(kl, 2)];
  const cells = means.map((mean) => page.element("td", { className: "number" }, mean));
  return page.element("tr", {}, page.element("th", { scope: "row" }, name), ...cells);
}

const answers = page.element("div", { className: "sides", "aria-live": "polite" });
const instruction = page.element("div");

function list(kind) {
  const some = rows.filter(KINDS[kind]);
  instruction.replaceChildren(page.menu("Instruction", some.map((row) => row.instruction), (i) => {
    const columns = Object.entries(some[i].answers).map(([name, answer]) => column(name, answer, some[i].harmful));
    answers.replaceChildren(...columns);
  }));
}

const kinds = Object.keys(KINDS).filter((kind) => rows.some(KINDS[kind]));
const means = page.element("tbody", {}, ...Object.entries(models).map(([name, values]) => row(name, values)));
const titles = [["model"], ["reward", "number"], ["judge, of 8", "number"], ["KL, nats", "number"]];
document.getElementById("models").replaceChildren(
  page.element("div", { className: "row" }, page.menu("Show", kinds, (i) => list(kinds[i])), instruction),
  answers,
  page.element("p", { className: "caption" }, "Means over all held-out instructions, and the KL divergence from SFT"),
  page.element("div", { className: "scroll", role: "group", tabIndex: 0, "aria-label": "Table of means" },
    page.table(titles, means)));

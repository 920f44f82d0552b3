// PPO's path, its quantities over the iterations, and the answers of the policy at an iteration.

const { quantities, iterations, answers } = page.data("ppo");
const POLICY = "var(--blue)";
const last = iterations.length - 1;

const path = page.element("div"), course = page.element("div");
const values = page.element("dl", { className: "values" });
const written = page.element("ul", { className: "written" });
const controls = page.element("div", { className: "brief" });
const pathPanel = page.element("div", {}, path), coursePanel = page.element("div", {}, course);
document.getElementById("ppo").replaceChildren( // first, because a chart is as wide as its place on the page
  page.element("div", { className: "charts" }, pathPanel, coursePanel), controls, values,
  ...(Object.keys(answers).length ? [page.element("p", { className: "caption" }, "The policy's likeliest answers")] : []), written);

// Three digits of a number, and at most five after the point; what is smaller is rounding.
const digits = (value) => Math.min(5, Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value)))));
const shown = (value) => (Math.abs(value) < 5e-6 ? "0" : page.number(value, digits(value)));
const fromTo = (points) => `from ${shown(points[0][1])} to ${shown(points.at(-1)[1])}`;
let markPath = () => {}, markCourse = () => {};
let current = 0;

function drawPath(score) {
  const points = iterations.map((record) => [record.kl, record[score]]);
  const mark = page.chart(path, {
    description: `${quantities[score]} over the KL, ${fromTo(points)}.`,
    x: { label: quantities.kl },
    y: { label: quantities[score] },
    lines: [{ points, colour: POLICY, dots: true }],
    pick: (i) => turn(i),
    free: true,
  });
  markPath = () => mark([{ at: points[current], colour: "var(--gold)" }]);
  markPath();
}

function drawCourse(name) {
  const points = iterations.filter((record) => name in record).map((record) => [record.iteration, record[name]]);
  const mark = page.chart(course, {
    description: `${quantities[name]} by iteration, ${fromTo(points)}.`,
    x: { label: "iteration", values: [0, last] },
    y: { label: quantities[name] },
    lines: [{ points, colour: POLICY }],
    pick: (i) => turn(i),
  });
  markCourse = () => mark(points.filter(([i]) => i === current).map((at) => ({ at, colour: "var(--gold)" })));
  markCourse();
}

function show(i) {
  current = i;
  markPath();
  markCourse();
  const known = Object.entries(quantities).filter(([name]) => name in iterations[i]);
  values.replaceChildren(...known.map(([name, title]) =>
    page.element("div", {}, page.element("dt", {}, title), page.element("dd", {}, shown(iterations[i][name])))));
  written.replaceChildren(...(answers[i] ?? []).map(([question, answer]) =>
    page.element("li", {}, page.element("span", { className: "prompt" }, `${question} `), answer)));
  return i < last ? `iteration ${i}` : `iteration ${i}: the trained policy`;
}

const [player, start, turn] = page.player("Iteration", show);
const scores = ["judge", "reward"];
const others = Object.keys(quantities).filter((name) => name !== "judge");
controls.append(player);
pathPanel.prepend(page.menu("Against the KL", scores.map((name) => quantities[name]), (i) => drawPath(scores[i])));
coursePanel.prepend(page.menu("By iteration", others.map((name) => quantities[name]), (i) => drawCourse(others[i])));
start(last);

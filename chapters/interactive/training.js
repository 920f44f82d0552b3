// The loss curve, and what the model wrote at a checkpoint.

const { training, mean, validation, checkpoints } = page.data("training");
const TRAINING = "var(--blue)", VALIDATION = "var(--gold)";

// The curve's last point up to a step; before the first step there is none.
const lossAt = (curve, step) => curve.filter(([at]) => at <= step).at(-1);

const place = page.element("div");
const texts = page.element("ul", { className: "written" });
const controls = page.element("div", { className: "brief" });
document.getElementById("training").replaceChildren(place, controls, texts);

const [first, last] = [mean[0][1], mean.at(-1)[1]];
const mark = page.chart(place, {
  description: `Training loss over ${training.at(-1)[0]} steps, falling from ${page.number(first, 2)} to ${page.number(last, 2)} nats per token.`,
  x: { label: "training step", values: [0] },
  y: { label: "loss (nats per token)", values: [0.5], logarithmic: true },
  lines: [
    { points: mean, colour: TRAINING, name: "training" },
    { points: training, colour: TRAINING, faint: true },
    { points: validation, colour: VALIDATION, name: "validation", scattered: true },
  ],
  pick: (i) => turn(nearest(mean[i][0])),
});

// The number of the checkpoint that is nearest to a step.
function nearest(step) {
  const distances = checkpoints.map((checkpoint) => Math.abs(checkpoint.step - step));
  return distances.indexOf(Math.min(...distances));
}

function show(i) {
  const { step, texts: written } = checkpoints[i];
  const loss = lossAt(mean, step) ?? validation[0];
  mark([{ at: [step, loss[1]], colour: TRAINING }]);
  texts.replaceChildren(...written.map(([prompt, text]) =>
    page.element("li", {}, page.element("span", { className: "prompt" }, `${prompt} `), text)));
  return `after ${page.number(step, 0)} steps: loss ${page.number(loss[1], 2)}`;
}

const [player, start, turn] = page.player("Checkpoint", show);
controls.append(player);
start(checkpoints.length - 1);

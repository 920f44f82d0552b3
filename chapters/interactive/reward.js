// Two responses, the reward at every token, and the labeller's choice.

const comparisons = page.data("reward");
const SIDES = [{ colour: "var(--ink)" }, { colour: "var(--soft)", dash: "6 4" }];
const strongest = Math.max(1e-6, ...comparisons.flatMap(({ responses }) => responses.flatMap(({ rewards }) => rewards.map(Math.abs))));

const place = page.element("div"), controls = page.element("div", { className: "brief" });
const responses = page.element("div");

// A token on a background that is the stronger, the further its reward is from 0.
function token(text, reward, read) {
  const [shade, strength] = [reward < 0 ? "var(--gold)" : "var(--blue)", Math.round((45 * Math.abs(reward)) / strongest)];
  return page.element("span", { onmouseenter: read, onclick: read, style: `--shade: ${shade}; --strength: ${strength}%` }, text);
}

function compare(number) {
  const { responses: pair, preferred, probability } = comparisons[number];
  const tokens = pair.map(({ tokens: texts, rewards }) => texts.map((text, t) => token(text, rewards[t], () => turn(t))));
  const readings = pair.map(() => page.element("div"));
  const often = probability > 0.99 ? "more than 99%" : page.percent(probability, 0);
  responses.replaceChildren(
    ...pair.flatMap(({ score }, i) => [
      page.element("p", { className: "caption" },
        `${"AB"[i]} · ${i === preferred ? "preferred" : "rejected"} · score by the labeller's rules: ${page.number(score, 1)} of 8`),
      page.element("div", { className: "tokens" }, ...tokens[i]),
      readings[i],
    ]),
    page.element("p", { className: "note" }, `With its noise, the simulated labeller prefers A in ${often} of comparisons.`));

  const lines = pair.map(({ before, rewards }, i) => ({
    ...SIDES[i], name: `${"AB"[i]} ${page.number(rewards.at(-1), 2, true)}`, points: [[0, before], ...rewards.map((reward, t) => [t + 1, reward])],
  }));
  const mark = page.chart(place, {
    description: `Reward by token. At the end, A has ${page.number(pair[0].rewards.at(-1), 2)} and B ${page.number(pair[1].rewards.at(-1), 2)}.`,
    x: { label: "tokens read" },
    y: { label: "reward", values: [0] },
    lines: [...lines].sort((a, b) => b.points.length - a.points.length), // the reader points at the longer one
    pick: (i) => turn(Math.max(0, i - 1)),
  });

  // Shows token t of both responses; a shorter one stays at its last token.
  function read(t) {
    const at = pair.map(({ rewards }) => Math.min(t, rewards.length - 1));
    mark(pair.map(({ rewards }, i) => ({ at: [at[i] + 1, rewards[at[i]]], colour: SIDES[i].colour })).sort((a, b) => b.at[0] - a.at[0]));
    pair.forEach(({ tokens: texts, rewards, before }, i) => {
      tokens[i].forEach((node, n) => node.classList.toggle("read", n === at[i]));
      const change = rewards[at[i]] - (at[i] ? rewards[at[i] - 1] : before);
      const final = at[i] === rewards.length - 1 ? " · the last token: the score of the response" : "";
      readings[i].textContent =
        `“${texts[at[i]].trim() || "␣"}” ${page.number(rewards[at[i]], 2, true)}, changed by ${page.number(change, 2, true)}${final}`;
    });
    return `token ${t + 1}`;
  }

  const longest = Math.max(...pair.map(({ rewards }) => rewards.length));
  const [player, start, turn] = page.player("Token", read);
  controls.replaceChildren(player);
  start(longest - 1);
  turn(longest - 1);
}

const root = document.getElementById("reward");
root.replaceChildren(place, controls, responses); // first, because a chart is as wide as its place on the page
root.prepend(page.menu("Instruction", comparisons.map(({ instruction }) => instruction), compare));

// The reader picks a layer and a head, and moves over the tokens of a text.

const part = document.getElementById("attention");
const { texts } = page.data("attention");
const MOST = 5; // tokens in the list of the most attended
let [chosen, layer, head, query] = [texts[0], Math.floor(texts[0].maps.length / 2), 0, 0];

// A set of radio buttons: one stop for the Tab key, and the arrow keys move inside. choose(i) runs when the reader takes one.
function radios(name, contents, choose) {
  return contents.map((content, i) => {
    const input = page.element("input", { type: "radio", name, onchange: () => choose(i) });
    return page.element("label", {}, input, content);
  });
}

// ── heat maps ────────────────────────────────────────────────────────────────────────────────────────────────────────

// √weight, so that small weights show.
const opacity = (weight) => Math.sqrt(weight / 1000);

// Draw a map in the canvas's own text colour, one pixel per weight.
function drawMap(canvas, map) {
  const size = map.length;
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  map.forEach((row, t) =>
    row.forEach((weight, s) => {
      context.globalAlpha = opacity(weight);
      context.fillRect(s, t, 1, 1);
    }),
  );
}

const large = page.element("canvas", { role: "img" });
const rowMark = page.element("div", { className: "query" });
const frame = page.element("div", { className: "heatmap" }, large, rowMark);
const caption = "The whole head. Rows: tokens that attend. Columns: tokens attended to. Shade: the square root of the weight.";
frame.onpointermove = frame.onpointerdown = (event) => {
  const { top, height } = frame.getBoundingClientRect();
  const row = Math.floor(((event.clientY - top) / height) * chosen.tokens.length);
  showQuery(Math.max(0, Math.min(row, chosen.tokens.length - 1)));
};

const heads = page.element("fieldset", { className: "heads" });
const tokens = page.element("fieldset", { className: "pieces" });

function drawMaps() {
  const small = [...heads.querySelectorAll("canvas")];
  chosen.maps.flat().forEach((map, i) => drawMap(small[i], map));
  drawMap(large, chosen.maps[layer][head]);
}

// ── one token's attention ────────────────────────────────────────────────────────────────────────────────────────────

const heading = page.element("p", { className: "caption", role: "status" });
const list = page.element("ol");

function showQuery(position) {
  query = position;
  const weights = chosen.maps[layer][head][query];
  tokens.querySelectorAll("label").forEach((label, i) => {
    label.style.setProperty("--opacity", opacity(weights[i] ?? 0));
    label.firstChild.checked = i === query;
  });
  rowMark.style.top = `${(100 * query) / chosen.tokens.length}%`;
  rowMark.style.height = `${100 / chosen.tokens.length}%`;
  heading.textContent = `Token ${query + 1}, “${bpe.shown(chosen.tokens[query])}”, attends to:`;
  const likeliest = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, MOST);
  list.replaceChildren(...likeliest.filter((key) => weights[key] > 0).map((key) => attended(key, weights[key])));
}

function attended(key, weight) {
  const bar = page.element("span", { className: "bar" });
  bar.style.width = `${weight / 10}%`;
  const place = key === query ? "itself" : `${query - key} back`;
  const share = page.element("span", { className: "share" }, page.percent(weight / 1000, 1));
  const name = page.element("span", { className: "key" }, bpe.shown(chosen.tokens[key]));
  return page.element("li", {}, name, page.element("small", {}, place), page.element("span", {}, bar), share);
}

function showHead(number) {
  const across = chosen.maps[0].length;
  [layer, head] = [Math.floor(number / across), number % across];
  heads.querySelectorAll("input")[number].checked = true;
  large.ariaLabel = `Attention weights of layer ${layer + 1}, head ${head + 1}`;
  drawMap(large, chosen.maps[layer][head]);
  showQuery(query);
}

// ── the page ─────────────────────────────────────────────────────────────────────────────────────────────────────────

function showText(number) {
  chosen = texts[number];
  query = chosen.tokens.length - 1;
  const words = chosen.tokens.map((token) => page.element("span", {}, bpe.shown(token)));
  const legend = page.element("legend", {}, "The text: point at a token, or use the arrow keys");
  tokens.replaceChildren(legend, ...radios("query", words, showQuery));
  for (const label of tokens.querySelectorAll("label")) label.onpointerenter = () => label.firstChild.click();
  drawMaps();
  showHead(layer * across + head);
}

const across = texts[0].maps[0].length;
const thumbnails = texts[0].maps.flat().map((_, i) => {
  const name = `Layer ${Math.floor(i / across) + 1}, head ${(i % across) + 1}`;
  return page.element("canvas", { role: "img", ariaLabel: name, title: name });
});
heads.style.setProperty("--across", across);
heads.append(page.element("legend", {}, "Rows: layers; columns: heads"), ...radios("head", thumbnails, showHead));
const top = page.element("div", { className: "row" });
const middle = page.element("div", {}, tokens, heading, list);
const right = page.element("div", {}, frame, page.element("small", {}, caption));
part.append(top, page.element("div", { className: "beside" }, heads, middle, right));

const beginning = (text) => bpe.shown(text.tokens.slice(0, 8).join("")).replaceAll("␣", " ");
top.append(page.menu("Text", texts.map((text) => `${beginning(text)} …`), showText));
matchMedia("(prefers-color-scheme: dark)").onchange = drawMaps; // the canvases take their colour from the style sheet

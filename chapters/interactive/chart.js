// page.chart: lines over two axes with ticks and units, drawn as SVG.

page.chart = (() => {
  // About `count` round numbers between two numbers.
  function ticks(from, to, count) {
    const rough = (to - from) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
    const first = Math.ceil(from / step - 1e-6);
    return Array.from({ length: Math.floor(to / step + 1e-6) - first + 1 }, (_, i) => (first + i) * step);
  }

  // The numbers 1, 2 and 5 times powers of ten between two positive numbers.
  function ticksOfRatios(from, to) {
    const powers = [-3, -2, -1, 0, 1, 2, 3, 4, 5].map((exponent) => 10 ** exponent);
    return powers.flatMap((power) => [power, 2 * power, 5 * power]).filter((tick) => tick >= from && tick <= to);
  }

  // A function from values to pixels, such that all values lie between the pixels `low` and `high`.
  function scale(values, low, high, logarithmic = false) {
    const height = logarithmic ? Math.log : Number;
    let [from, to] = [Math.min(...values), Math.max(...values)];
    if (from === to) [from, to] = logarithmic ? [from / 2, to * 2] : [from - 1, to + 1];
    const at = (value) => low + ((height(value) - height(from)) / (height(to) - height(from))) * (high - low);
    return Object.assign(at, { ticks: (count) => (logarithmic ? ticksOfRatios(from, to) : ticks(from, to, count)) });
  }

  const colour = (name) => ({ style: `--colour: ${name}` });
  const words = (value) => Number(value.toPrecision(6)).toLocaleString("en").replace("-", "−");
  const text = (content, x, y, anchor, more = {}) => page.shape("text", { x, y, "text-anchor": anchor, ...more }, content);

  function axes(box, x, y, across, up) {
    const parts = [page.shape("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis" })];
    for (const value of up.ticks(5)) {
      const level = up(value);
      parts.push(page.shape("line", { x1: box.left, x2: box.right, y1: level, y2: level, class: "grid" }));
      parts.push(text(words(value), box.left - 8, level + 4, "end"));
    }
    for (const value of across.ticks((box.right - box.left) / 70)) {
      parts.push(text(words(value), across(value), box.bottom + 18, "middle"));
    }
    const middle = (box.top + box.bottom) / 2;
    parts.push(text(x.label, (box.left + box.right) / 2, box.bottom + 38, "middle"));
    parts.push(text(y.label, 12, middle, "middle", { transform: `rotate(-90 12 ${middle})` }));
    return parts;
  }

  // The names of the lines at their ends, each below the one before, so that none covers another.
  function names(lines, spots) {
    const order = [...lines.keys()].filter((i) => lines[i].name).sort((a, b) => spots[a].at(-1)[1] - spots[b].at(-1)[1]);
    let lowest = -Infinity;
    return order.map((i) => {
      const [end, level] = spots[i].at(-1);
      lowest = Math.max(level + 4, lowest + 15);
      return text(lines[i].name, end + 9, lowest, "start", { class: "name", ...colour(lines[i].colour) });
    });
  }

  function shapes(line, spots) {
    const points = spots.map((spot) => spot.map((number) => number.toFixed(1)).join(",")).join(" ");
    const kind = line.faint ? "line faint" : "line";
    const path = page.shape("polyline", { points, class: kind, "stroke-dasharray": line.dash ?? "none", ...colour(line.colour) });
    const dot = ([cx, cy]) => page.shape("circle", { cx, cy, r: 3, class: "dot", ...colour(line.colour) });
    return [...(line.scattered ? [] : [path]), ...(line.dots || line.scattered ? spots.map(dot) : [])];
  }

  // Draws into an element that is on the page already, as wide as that element.
  //   description: what a screen reader says in place of the picture
  //   x, y: { label, values }: an axis reaches over all points, and over these values if there are any; y: { logarithmic }
  //   lines: [{ name, points: [[x, y], …], colour, dash, faint, dots, scattered }]; the name stands at the
  //     line's end, `dots` marks the points, and `scattered` leaves out the line between them
  //   pick(i): called when the reader points at point i of the first line; `free`: y counts too, because x is no time
  // Returns mark([{ at: [x, y], colour }, …]), which puts dots on the chart and a guide through the first.
  return (place, { description, x, y, lines, pick, free = false }) => {
    const width = Math.min(Math.max(place.clientWidth || 600, 260), 960);
    const height = Math.round(Math.min(0.4 * width + 90, 300));
    const longest = Math.max(...lines.map((line) => line.name?.length ?? 0)); // characters
    const box = { left: 54, right: width - 16 - 7 * longest, top: 12, bottom: height - 46 }; // pixels
    const values = (axis, i) => [...lines.flatMap((line) => line.points.map((point) => point[i])), ...(axis.values ?? [])];
    const across = scale(values(x, 0), box.left + 6, box.right - 6);
    const up = scale(values(y, 1), box.bottom - 6, box.top + 6, y.logarithmic);
    const spots = lines.map((line) => line.points.map((point) => [across(point[0]), up(point[1])]));

    const svg = page.shape("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": description, class: "chart" });
    const marks = page.shape("g");
    svg.append(...axes(box, x, y, across, up), ...lines.flatMap((line, i) => shapes(line, spots[i])), ...names(lines, spots), marks);
    place.replaceChildren(svg);

    const point = (event) => {
      const frame = svg.getBoundingClientRect();
      const [left, top] = [event.clientX - frame.left, event.clientY - frame.top].map((pixels) => (pixels * width) / frame.width);
      const distances = spots[0].map((spot) => Math.hypot(spot[0] - left, free ? spot[1] - top : 0));
      pick(distances.indexOf(Math.min(...distances)));
    };
    if (pick) svg.onpointerdown = point;
    if (pick) svg.onpointermove = (event) => event.buttons && point(event);

    return (places) => {
      const dots = places.map(({ at, colour: name }) =>
        page.shape("circle", { cx: across(at[0]), cy: up(at[1]), r: 6, class: "mark", ...colour(name) }));
      const guides = places.slice(0, 1).map(({ at }) =>
        page.shape("line", { x1: across(at[0]), x2: across(at[0]), y1: box.top, y2: box.bottom, class: "guide" }));
      marks.replaceChildren(...guides, ...dots);
    };
  };
})();

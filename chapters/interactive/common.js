// What all interactive parts share. Texts become text nodes, so nothing in the data can become markup.

const page = {
  // The JSON of <script type="application/json" id="NAME-data">.
  data: (name) => JSON.parse(document.getElementById(`${name}-data`).textContent),

  // An element: page.element("button", { type: "button", onclick: step }, "Next merge").
  element(tag, properties = {}, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("on") || name in node) node[name] = value;
      else node.setAttribute(name, value);
    }
    node.append(...children);
    return node;
  },

  // The text with every character that shows nothing, or that reverses a line, as a sign. kernels/terminal.py does the same
  // for those that do harm; here a reader shall see them all.
  visible: (text) =>
    text.replace(/[^\P{C}\n\t]|[\p{Zl}\p{Zp}]/gu, (character) => {
      const code = character.codePointAt(0);
      if (code < 32) return String.fromCodePoint(0x2400 + code);
      return code === 127 ? "␡" : `\\u{${code.toString(16)}}`;
    }),

  // Buttons and a slider that walk from step 0 to a last step. show(step) updates the page and returns the step in words.
  // Returns the element, a function start(last) that begins again at step 0, and a function turn(step).
  player(label, show) {
    let [step, last, timer] = [0, 0, null];
    const words = page.element("p", { role: "status" });
    const slider = page.element("input", { type: "range", min: 0, step: 1, ariaLabel: label });
    const button = (text, act) => page.element("button", { type: "button", onclick: act }, text);
    const play = button("Play", () => (timer ? stop() : begin()));
    const around = [button("Back", () => turn(step - 1)), play, button("Next", () => turn(step + 1))];
    slider.oninput = () => turn(Number(slider.value));

    function move(to) {
      step = Math.max(0, Math.min(to, last));
      slider.value = step;
      words.textContent = show(step);
      slider.ariaValueText = words.textContent;
    }
    function turn(to) {
      stop();
      move(to);
    }
    function begin() {
      if (step === last) move(0);
      words.ariaLive = "off"; // a screen reader cannot keep up with the steps
      const pace = Math.min(400, 20_000 / last); // milliseconds a step, and at most 20 seconds in all
      timer = setInterval(() => (step < last ? move(step + 1) : stop()), pace);
      play.textContent = "Pause";
    }
    function stop() {
      clearInterval(timer);
      timer = null;
      words.ariaLive = "polite";
      play.textContent = "Play";
    }
    const start = (to) => {
      last = slider.max = to;
      turn(0);
    };
    return [page.element("div", { className: "row player" }, ...around, slider, words), start, turn];
  },

  // An element of an SVG drawing: page.shape("circle", { cx: 5, cy: 5, r: 3 }).
  shape(tag, attributes = {}, ...children) {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  },

  // A number as the page shows it, with a real minus sign: page.number(-0.26, 1) is "−0.3"; signed adds a plus.
  number(value, digits, signed = false) {
    const rounded = Number(value.toFixed(digits)) || 0; // no −0
    const text = rounded.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
    return (signed && rounded > 0 ? "+" : "") + text.replace("-", "−");
  },

  // A share from 0 to 1 as a percentage: page.percent(0.256, 1) is "25.6%".
  percent: (share, digits) => `${page.number(100 * share, digits)}%`,

  // A table with these [title, class] pairs above its columns, and this <tbody>.
  table(titles, body) {
    const heads = titles.map(([title, className = ""]) => page.element("th", { scope: "col", className }, title));
    return page.element("table", {}, page.element("thead", {}, page.element("tr", {}, ...heads)), body);
  },

  // A labelled menu. choose(number) runs now with the first option, if there is one, and whenever the reader takes another.
  menu(label, options, choose) {
    const select = page.element("select", { ariaLabel: label, onchange: () => choose(select.selectedIndex) });
    select.append(...options.map((option) => page.element("option", {}, page.visible(option))));
    if (options.length) choose(0);
    return page.element("label", {}, `${label} `, select);
  },
};

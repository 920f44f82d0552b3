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
};

// An element: element("button", { type: "button", onclick: ask }, "Ask"). Texts become text nodes.
export function element(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

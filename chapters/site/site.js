"use strict";
// Tabs, search, and keyboard access to what scrolls. Without this file every page can still be read from top to bottom.

const root = document.documentElement.dataset.root;

function make(tag, properties = {}, children = []) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

// ── tabs: the files of a kernel ──────────────────────────────────────────────────────────────────────────────────────

const panels = [...document.querySelectorAll(".panel")];
const tabs = panels.map((panel) => {
  const tab = make("button", { type: "button", textContent: panel.dataset.label, id: panel.id + "-tab" });
  tab.setAttribute("role", "tab");
  tab.setAttribute("aria-controls", panel.id);
  tab.addEventListener("click", () => select(panel));
  panel.setAttribute("role", "tabpanel");
  panel.setAttribute("aria-labelledby", tab.id);
  panel.classList.add("tabbed");
  return tab;
});

function select(chosen) {
  panels.forEach((panel, i) => {
    panel.hidden = panel !== chosen;
    tabs[i].setAttribute("aria-selected", String(panel === chosen));
    tabs[i].tabIndex = panel === chosen ? 0 : -1;
  });
  reachScrollers();
}

function moveBetweenTabs(event) {
  const steps = { ArrowRight: 1, ArrowLeft: -1 };
  const at = tabs.indexOf(document.activeElement);
  const ends = { Home: 0, End: tabs.length - 1 };
  const next = event.key in ends ? ends[event.key] : event.key in steps ? (at + steps[event.key] + tabs.length) % tabs.length : -1;
  if (next < 0 || at < 0) return;
  event.preventDefault();
  select(panels[next]);
  tabs[next].focus();
}

// A link may lead to a line of a hidden panel.
function showTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const panel = target?.closest(".panel");
  if (!panel) return;
  select(panel);
  target.scrollIntoView();
}

// ── what scrolls sideways can be reached with the keyboard ───────────────────────────────────────────────────────────

function reachScrollers() {
  const blocks = [...document.querySelectorAll("pre, .step, .scroll, .wide")];
  const scrolls = blocks.map((block) => block.scrollWidth > block.clientWidth); // all before the first change: one layout
  for (const [i, block] of blocks.entries()) {
    if (scrolls[i]) {
      block.tabIndex = 0;
      block.setAttribute("role", "group");
      block.setAttribute("aria-label", block.dataset.label ?? block.getAttribute("aria-label") ?? "example");
    } else if (!block.classList.contains("scroll")) {
      block.removeAttribute("tabindex");
    }
  }
}

// ── search: names of definitions and titles of pages ─────────────────────────────────────────────────────────────────

const MOST = 12; // results shown

function makeSearch() {
  const place = document.getElementById("search");
  const input = make("input", { type: "search", id: "find", placeholder: "Find a name", autocomplete: "off" });
  const results = make("ul");
  const label = make("label", { className: "hidden-label", htmlFor: "find", textContent: "Find a function, a class or a page" });
  const status = make("p", { className: "hidden-label" });
  status.setAttribute("role", "status");
  const show = () => showResults(input.value, results, status);
  input.addEventListener("focus", () => loadNames(show), { once: true });
  input.addEventListener("input", show);
  place.addEventListener("keydown", (event) => moveInResults(event, input, results));
  place.addEventListener("focusout", (event) => {
    if (!place.contains(event.relatedTarget)) results.replaceChildren();
  });
  place.append(label, input, results, status);
}

// The list of names is a script, because a page from disk may not fetch a file.
function loadNames(then) {
  document.head.append(make("script", { src: root + "names.js", onload: then }));
}

function showResults(text, results, status) {
  const wanted = text.trim().toLowerCase();
  const rank = ([name]) => (name.toLowerCase() === wanted ? 0 : name.toLowerCase().startsWith(wanted) ? 1 : 2);
  const found = wanted ? (window.siteNames ?? []).filter(([name]) => name.toLowerCase().includes(wanted)) : [];
  found.sort((a, b) => rank(a) - rank(b) || a[0].length - b[0].length);
  const items = found.slice(0, MOST).map(([name, address]) => {
    const [page, anchor = ""] = address.split(".html#");
    const file = anchor.endsWith("-" + name) ? " " + anchor.slice(0, -name.length - 1) : ""; // of a page that has several
    const where = make("small", { textContent: " " + page.replace(".html", "") + file });
    return make("li", {}, [make("a", { href: root + address }, [name, where])]);
  });
  results.replaceChildren(...items);
  status.textContent = wanted ? `${found.length} found` : "";
}

function moveInResults(event, input, results) {
  const stops = [input, ...results.querySelectorAll("a")];
  const at = stops.indexOf(document.activeElement);
  if (event.key === "Escape") {
    results.replaceChildren();
    input.focus();
  } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    event.preventDefault();
    stops[Math.min(Math.max(at + (event.key === "ArrowDown" ? 1 : -1), 0), stops.length - 1)].focus();
  } else if (event.key === "Enter" && document.activeElement === input && stops[1]) {
    stops[1].click();
  }
}

// ── start ────────────────────────────────────────────────────────────────────────────────────────────────────────────

if (panels.length) {
  const list = make("div", {}, tabs);
  list.setAttribute("role", "tablist");
  list.setAttribute("aria-label", "Files");
  list.addEventListener("keydown", moveBetweenTabs);
  panels[0].before(list);
  select(panels[0]);
  showTarget();
  addEventListener("hashchange", showTarget);
}
makeSearch();
reachScrollers();
addEventListener("resize", reachScrollers);

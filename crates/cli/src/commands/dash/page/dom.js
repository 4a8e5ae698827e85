// Elements. Whatever comes from a run goes in as text.

/** An element with attributes, listeners (`onclick`), classes and children; text is text. */
export function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") Object.assign(node.style, value);
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name === "className" ? "class" : name, value === true ? "" : value);
  }
  node.append(...children.flat(2).filter((c) => c !== null && c !== undefined && c !== false).map((c) => (c instanceof Node ? c : String(c))));
  return node;
}

/** Puts children in place of what is there. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(2).filter(Boolean));
}

/** The same, only if `key` has changed: what a reader has selected or opened stays. */
export function refill(node, key, make) {
  if (node.filledWith === key) return;
  node.filledWith = key;
  fill(node, make());
}

/** A colored square, or a line of a kind. */
export function swatch(color, kind = "", alpha = 1) {
  const style = { opacity: alpha, ...(kind === "dash" ? { borderTopColor: color } : { background: color }) };
  return el("span", { className: `sw ${kind}`, style, "aria-hidden": "true" });
}

/** What stands where there is nothing to show. Words in backquotes are code. */
export function empty(text) {
  const parts = text.split("`").map((part, i) => (i % 2 ? el("code", null, part) : part));
  return el("p", { className: "empty" }, el("span", null, parts));
}

/** Buttons of which one is chosen. */
export function choice(label, options, chosen, choose) {
  const buttons = options.map(([value, text]) =>
    el("button", { type: "button", "aria-pressed": String(value === chosen), onclick: () => pick(value) }, text));
  const pick = (value) => {
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", String(options[i][0] === value)));
    choose(value);
  };
  return el("span", { className: "choice", role: "group", "aria-label": label }, buttons);
}

/** A button that is on or off. */
export function toggle(text, title, on, change) {
  const button = el("button", { type: "button", className: "ghost", title, "aria-pressed": String(on) }, text);
  button.addEventListener("click", () => {
    const next = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(next));
    change(next);
  });
  return button;
}

/** The value of a custom property of the style. */
export function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** What the reader chose last time; a page in a file may have no storage. */
export const remembered = {
  get(key) {
    try { return localStorage.getItem(`mesp.${key}`); } catch { return null; }
  },
  set(key, value) {
    try { localStorage.setItem(`mesp.${key}`, value); } catch { /* then not */ }
  },
};

import { el, empty, fill, swatch, toggle } from "./dom.js";
import { extent, nearest, within } from "./series.js";
import { roomy, scale } from "./scale.js";
import { PAD, axes, drawLevel, drawMarks, paint } from "./paint.js";

// A chart on a canvas, with a line at the place that is pointed at, zoom, and the keyboard.
//
// A layer: { kind: "line" | "area" | "points", label, color, x, y, base, width, alpha, dash, quiet, format }; a
// quiet one is in neither tooltip nor legend. A level is a horizontal line: { label, color, y, dash }. A mark is a
// vertical one: { x, label, color, below }.

/** Pixels from which a point is pointed at, and from which a drag is one. */
const NEAR = 14;
const DRAG = 5;

export class Chart {
  constructor({ id, title, view, height = 220, width = "w3", format, xFormat, canLog, zero, note }) {
    Object.assign(this, { id, title, view, format, xFormat, zero, log: false, layers: [], levels: [], marks: [] });
    this.canvas = el("canvas", { "aria-hidden": "true" });
    this.rule = el("div", { className: "rule", hidden: true });
    this.span = el("div", { className: "span", hidden: true });
    this.dots = el("div");
    this.tip = el("div", { className: "tip", hidden: true });
    this.nothing = el("div", { hidden: true });
    this.plot = el("div", { className: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart", style: { height: `${height}px` } },
      this.canvas, this.span, this.rule, this.dots, this.tip, this.nothing);
    this.now = el("span", { className: "now" });
    this.legend = el("ul", { className: "legend" });
    const log = canLog ? toggle("log", "Logarithmic scale", false, (on) => { this.log = on; this.draw(); }) : null;
    this.root = el("figure", { className: `card ${width}`, id: `chart-${id}` },
      el("figcaption", null, el("h3", null, title), this.now, el("span", { className: "grow" }), log),
      this.plot, this.legend, note ? el("p", { className: "quiet more" }, note) : null);
    this.listen();
    view.on((what) => (what === "range" ? this.draw() : this.point()));
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** Takes what to draw; `none` says what is missing, where there is nothing. */
  set({ layers, levels = [], marks = [], now = "", none = null, start = null }) {
    Object.assign(this, { layers: layers.filter((l) => l.x.length), levels, marks, start });
    this.now.textContent = now;
    const missing = this.layers.length ? null : none;
    this.nothing.hidden = !missing;
    this.plot.tabIndex = missing ? -1 : 0;
    if (missing) fill(this.nothing, empty(missing));
    const named = [...this.layers, ...this.levels].filter((l) => !l.quiet);
    const key = named.map((l) => l.label + l.color).join();
    if (key !== this.legendKey) {
      this.legendKey = key;
      const kind = (l) => (l.dash ? "dash" : l.kind === "area" || l.kind === "points" ? "" : "thin");
      fill(this.legend, named.length > 1 ? named.map((l) => el("li", null, swatch(`var(${l.color})`, kind(l), l.alpha), l.label)) : []);
    }
    const said = named.map((l) => (l.kind ? this.spoken(l) : `${l.label} ${this.format(l.y)}`)).join("; ");
    this.plot.setAttribute("aria-label", missing ? `${this.title}: ${missing}` : `${this.title}. ${said}`);
    this.draw();
  }

  spoken(layer) {
    const range = extent(layer.y);
    if (!range) return `${layer.label}: no values`;
    const end = layer.y[layer.y.length - 1];
    return `${layer.label}: ${layer.x.length} values from ${this.format(range[0])} to ${this.format(range[1])}, last ${this.format(end)}`;
  }

  /** The whole range of x. */
  all() {
    let [low, high] = [Infinity, -Infinity];
    for (const { x } of this.layers) {
      low = Math.min(low, x[0]);
      high = Math.max(high, x[x.length - 1]);
    }
    if (this.start !== null) low = Math.min(low, this.start);
    return low < high ? [low, high] : Number.isFinite(low) ? [low - 1, low + 1] : [0, 1];
  }

  draw() {
    const [w, h] = [this.plot.clientWidth, this.plot.clientHeight];
    if (!w || !h) return;
    const ratio = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(w * ratio) || this.canvas.height !== Math.round(h * ratio)) {
      this.canvas.width = Math.round(w * ratio);
      this.canvas.height = Math.round(h * ratio);
    }
    const c = this.canvas.getContext("2d");
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    if (!this.layers.length) return this.point();
    const domain = this.view.range ?? this.all();
    this.x = scale(domain, [PAD.left, w - PAD.right]);
    const fits = this.log ? (v) => v > 0 && v < Infinity : Number.isFinite;
    let range = null;
    const grow = (e) => { if (e) range = range ? [Math.min(range[0], e[0]), Math.max(range[1], e[1])] : e; };
    for (const layer of this.layers) grow(extent(layer.y, ...within(layer.x, domain), fits));
    for (const level of this.levels) if (fits(level.y)) grow([level.y, level.y]);
    this.y = scale(roomy(range, this.log, this.zero && !this.log), [h - PAD.bottom, PAD.top], this.log);
    axes(c, this, w, h);
    c.save();
    c.beginPath();
    c.rect(PAD.left - 5, PAD.top - 4, w - PAD.left - PAD.right + 10, h - PAD.top - PAD.bottom + 6);
    c.clip();
    for (const layer of this.layers) paint[layer.kind](c, this, layer, domain, fits);
    for (const level of this.levels) if (fits(level.y)) drawLevel(c, this, level, w);
    drawMarks(c, this, this.marks, w, h);
    c.restore();
    this.point();
  }

  /** The line, the dots and the tooltip where the cursor is. */
  point() {
    const at = this.view.cursor;
    const shown = at !== null && this.layers.length > 0 && this.x && at >= this.x.domain[0] && at <= this.x.domain[1];
    this.rule.hidden = this.tip.hidden = !shown;
    if (!shown) return fill(this.dots);
    const [rows, dots] = [[], []];
    let snapped = null;
    for (const layer of this.layers.filter((l) => !l.quiet)) {
      const i = nearest(layer.x, at);
      const away = Math.abs(this.x(layer.x[i]) - this.x(at));
      if (away > NEAR && (layer.kind === "points" || at < layer.x[0] || at > layer.x[layer.x.length - 1])) continue;
      if (snapped === null || layer.kind !== "points") snapped ??= layer.x[i];
      const value = layer.value ? layer.value[i] : layer.y[i];
      rows.push([layer, value]);
      if (layer.kind !== "area" && Number.isFinite(layer.y[i]) && !(this.log && layer.y[i] <= 0)) {
        dots.push(el("div", { className: "dot", style: { left: `${this.x(layer.x[i])}px`, top: `${this.y(layer.y[i])}px`, background: `var(${layer.color})` } }));
      }
    }
    for (const level of this.levels) rows.push([level, level.y]);
    // A stack reads from its top.
    if (this.layers.some((l) => l.kind === "area")) rows.reverse();
    const px = this.x(snapped ?? at);
    Object.assign(this.rule.style, { left: `${px}px`, height: `${this.plot.clientHeight - PAD.bottom}px` });
    fill(this.dots, dots);
    const kind = (l) => (l.dash ? "dash" : l.kind === "line" ? "thin" : "");
    const cells = rows.map(([l, v]) => el("tr", null,
      el("td", null, swatch(`var(${l.color})`, kind(l), l.alpha), l.label), el("td", { className: "v" }, (l.format ?? this.format)(v))));
    fill(this.tip, el("div", { className: "head" }, this.xFormat(snapped ?? at)), el("table", null, cells));
    const [w, tip] = [this.plot.clientWidth, this.tip.offsetWidth];
    const left = px + 14 + tip > w ? Math.max(0, px - 14 - tip) : px + 14;
    Object.assign(this.tip.style, { left: `${left}px`, top: "8px" });
  }

  listen() {
    let from = null;
    const at = (e) => e.clientX - this.plot.getBoundingClientRect().left;
    const value = (px) => this.x.back(Math.min(Math.max(px, PAD.left), this.plot.clientWidth - PAD.right));
    const on = (type, f) => this.plot.addEventListener(type, (e) => this.x && this.layers.length && f(e));
    on("pointermove", (e) => {
      const here = at(e);
      this.view.setCursor(value(here));
      if (from === null || e.pointerType === "touch") return;
      this.span.hidden = Math.abs(here - from) < DRAG;
      const [a, b] = [from, here].sort((p, q) => p - q);
      Object.assign(this.span.style, { left: `${a}px`, width: `${b - a}px`, height: `${this.plot.clientHeight - PAD.bottom}px` });
    });
    on("pointerdown", (e) => {
      if (e.button !== 0) return;
      from = at(e);
      if (e.pointerType !== "touch") this.plot.setPointerCapture(e.pointerId);
      this.view.setCursor(value(from));
    });
    on("pointerup", (e) => {
      const [a, b] = [from ?? at(e), at(e)];
      from = null;
      this.span.hidden = true;
      if (e.pointerType !== "touch" && Math.abs(a - b) >= DRAG) this.view.setRange([value(Math.min(a, b)), value(Math.max(a, b))]);
    });
    on("pointercancel", () => { from = null; this.span.hidden = true; });
    on("pointerleave", (e) => { if (from === null && e.pointerType !== "touch") this.view.setCursor(null); });
    on("dblclick", () => this.view.setRange(null));
    on("keydown", (e) => this.key(e));
    // Every chart points at the place; the one that has the focus says it.
    on("focus", () => this.tip.setAttribute("role", "status"));
    on("blur", () => {
      this.tip.removeAttribute("role");
      this.view.setCursor(null);
    });
  }

  key(e) {
    if (e.ctrlKey || e.altKey || e.metaKey) return;
    const { x } = this.layers[0];
    const [from, to] = within(x, this.x.domain);
    const current = this.view.cursor === null ? to - 1 : nearest(x, this.view.cursor);
    // With more points than pixels a step is a pixel.
    const stride = Math.max(1, Math.round((to - from) / this.plot.clientWidth)) * (e.shiftKey ? 10 : 1);
    const go = (i) => this.view.setCursor(x[Math.min(Math.max(i, 0), x.length - 1)]);
    const zoom = (by) => {
      const [a, b] = this.x.domain;
      const at = this.view.cursor ?? (a + b) / 2;
      const [low, high] = this.all();
      const next = [Math.max(low, at - (at - a) * by), Math.min(high, at + (b - at) * by)];
      this.view.setRange(next[0] <= low && next[1] >= high ? null : next);
    };
    const keys = {
      ArrowLeft: () => go(current - stride), ArrowRight: () => go(current + stride), Home: () => go(0), End: () => go(x.length - 1),
      "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), "0": () => this.view.setRange(null),
      Escape: () => { this.view.setCursor(null); this.view.setRange(null); },
    };
    if (!keys[e.key]) return;
    e.preventDefault();
    keys[e.key]();
  }
}

import { el, empty, fill, refill, swatch } from "./dom.js";
import { bytes, count, number } from "./format.js";
import { extent, last } from "./series.js";
import { View } from "./view.js";
import { Chart } from "./chart.js";

/** Classes of the ledger from the ground up: what stays first, what comes and goes last. */
const CLASSES = {
  base_resident: ["base weights in memory", "--c8"], trained: ["trained weights", "--c8"], adapter: ["adapter", "--c0"], gradient: ["its gradients", "--c1"],
  optimizer: ["optimizer state", "--c2"], tokens: ["tokens", "--c7"], other: ["tables and holes", "--c10"], scratch: ["kernel scratch", "--c6"],
  cache: ["keys and values", "--c9"], checkpoint: ["kept for the backward pass", "--c3"], within_block: ["within a block", "--c4"],
  head: ["head: logits and their gradient", "--c5"],
};
const nameOf = (c) => CLASSES[c]?.[0] ?? c.replaceAll("_", " ");
const colorOfClass = (c) => CLASSES[c]?.[1] ?? "--c10";
const inOrder = (classes) => {
  const order = Object.keys(CLASSES);
  const place = (c) => (order.includes(c) ? order.indexOf(c) : order.length);
  return [...classes].sort((a, b) => place(a) - place(b));
};

/** Areas on top of each other; a layer for each class with any bytes. */
function stack(classes, x, values) {
  let base = x.map(() => 0);
  const layers = [];
  for (const c of classes) {
    const own = values(c);
    if (!own.some((v) => v > 0)) continue;
    const top = base.map((b, i) => b + (own[i] || 0));
    layers.push({ kind: "area", label: nameOf(c), color: colorOfClass(c), x, y: top, base, value: own, steps: true });
    base = top;
  }
  return layers;
}

/** The memory over the run, within a step, and by class. */
export class Memory {
  constructor(root, view, training) {
    this.training = training;
    const xFormat = (x, axis) => training.loss.xFormat(x, axis);
    this.over = new Chart({ id: "memory", title: "Over the run", view, xFormat, format: bytes, height: 280, width: "w4", zero: true });
    this.classes = el("div", { className: "card w2", id: "ledger" });
    this.within = new Chart({
      id: "within", title: "Within one step", view: new View(), height: 280, width: "w4", zero: true, format: bytes,
      xFormat: (x, axis) => this.moment(x, axis),
      note: "The arena as it is planned: time counts allocations and frees, and of a loop over tiles the first turn is shown. The numbers on the ground are blocks.",
    });
    this.alive = el("div", { className: "card w2", id: "alive" });
    root.append(el("h2", null, "Memory"), el("div", { className: "grid" }, this.over.root, this.classes, this.within.root, this.alive));
  }

  update(run) {
    const plan = run.items("plan").at(-1);
    const ledger = plan?.ledger ?? run.fact("memory.ledger");
    this.updateOver(run, ledger);
    const key = `${run.id} ${JSON.stringify(ledger ?? null)}`;
    refill(this.classes, key, () => this.table(ledger));
    this.updateWithin(run, plan?.timeline);
  }

  updateOver(run, ledger) {
    const axis = this.training.axis;
    const [x, steps] = [run.x("memory", axis), run.x("train", axis)];
    const end = Math.max(x.at(-1) ?? 0, steps.at(-1) ?? 0);
    const begin = Math.min(x[0] ?? 0, steps[0] ?? 0);
    const layers = [];
    if (ledger && end > begin) {
      const classes = inOrder(Object.keys(ledger));
      const { places, of } = this.ledgers(run, ledger, x, begin, end);
      layers.push(...stack(classes, places, of));
    }
    const each = (name, label, color) => {
      // Of every step where it is told, else whenever it rose.
      const told = run.column("train", name);
      const [at, y] = told.some(Number.isFinite) ? [steps, told] : [x, run.column("memory", name)];
      if (!y.some(Number.isFinite)) return;
      const held = (at.at(-1) ?? 0) < end;
      layers.push({ kind: "line", label, color, x: held ? [...at, end] : at, y: held ? [...y, last(y)] : y, width: 2 });
    };
    each("heap_peak_bytes", "heap, measured peak", "--ink");
    each("rss_anon_peak_bytes", "process, anonymous, measured peak", "--s3");
    const levels = [];
    if (Number.isFinite(run.planned)) levels.push({ label: "planned peak", color: "--planned", y: run.planned, dash: [6, 4] });
    if (run.budget > 0) levels.push({ label: "budget", color: "--budget", y: run.budget, dash: [2, 3] });
    const peak = extent(run.column("memory", "heap_peak_bytes"))?.[1] ?? run.fact("memory.heap_peak_bytes");
    const now = Number.isFinite(peak) && Number.isFinite(run.planned) ? `peak ${bytes(peak)} of ${bytes(run.planned)} planned` : "";
    this.over.set({ layers, levels, now, start: layers.length ? begin : null, none: "No memory figures: the run has written no `memory` lines yet." });
  }

  /** The ledger along the run: a resumed process may have another plan. */
  ledgers(run, ledger, x, begin, end) {
    const told = Object.keys(ledger).map((c) => run.column("memory", `ledger.${c}`));
    const rows = [...x.keys()].filter((i) => told.some((column) => Number.isFinite(column[i])));
    if (rows.length < 2) return { places: [begin, end], of: (c) => [ledger[c], ledger[c]] };
    const places = [...rows.map((i) => x[i]), end];
    return { places, of: (c) => { const column = run.column("memory", `ledger.${c}`); return [...rows, rows.at(-1)].map((i) => column[i] || 0); } };
  }

  table(ledger) {
    if (!ledger) return [el("h3", null, "By class"), empty("The ledger of planned bytes comes with the `plan` line, or in `run.json` when the run ends.")];
    const rows = Object.entries(ledger).filter(([, n]) => n > 0).sort((a, b) => b[1] - a[1]);
    const all = rows.reduce((sum, [, n]) => sum + n, 0);
    const row = ([c, n]) => el("tr", null,
      el("td", null, swatch(`var(${colorOfClass(c)})`), nameOf(c)), el("td", { className: "n" }, bytes(n)),
      el("td", { className: "n quiet" }, `${((100 * n) / all).toFixed(1)}%`));
    return [el("h3", null, `By class: ${bytes(all)} planned`),
      el("div", { className: "scroll" }, el("table", { className: "list" }, el("tbody", null, rows.map(row))))];
  }

  updateWithin(run, timeline) {
    const key = `${run.id} ${JSON.stringify(timeline?.peak_bytes ?? null)} ${timeline?.columns?.length}`;
    if (this.withinKey === key) return;
    this.withinKey = key;
    this.timeline = timeline;
    this.alive.hidden = !timeline?.columns?.length;
    this.within.root.classList.replace(this.alive.hidden ? "w4" : "w6", this.alive.hidden ? "w6" : "w4");
    const none = "The memory within a step comes with the `plan` line at a run's beginning; this run has none.";
    if (!timeline?.columns?.length) {
      this.within.set({ layers: [], none });
      return;
    }
    const { classes, columns, peak_bytes: peak, phases = [], blocks = [], alive_at_peak: alive = [] } = timeline;
    // In percent of the step; a column lasts until the next one begins.
    const n = columns.length;
    const percent = (i) => (100 * i) / n;
    const x = Array.from({ length: n + 1 }, (_, i) => percent(i));
    const at = (c) => { const k = classes.indexOf(c); return x.map((_, i) => columns[Math.min(i, n - 1)][k] ?? 0); };
    const layers = stack(inOrder(classes), x, at);
    const levels = [{ label: "peak of the arena", color: "--planned", y: peak, dash: [6, 4] }];
    const marks = [
      ...phases.map((p) => ({ x: percent(p.from), label: p.name, color: "--soft" })),
      ...blocks.map((b) => ({ x: percent(b.from), label: String(b.block), below: true })),
    ];
    const policy = run.fact("method");
    this.within.set({ layers, levels, marks, now: [policy, `peak ${bytes(peak)}`, timeline.moments && `${count(timeline.moments)} moments`].filter(Boolean).join(" · "), none });
    const row = (b) => el("tr", null, el("td", null, swatch(`var(${colorOfClass(b.class)})`), b.name), el("td", { className: "n" }, bytes(b.bytes)));
    const shown = alive.slice(0, 12);
    const rest = alive.slice(12).reduce((sum, b) => sum + b.bytes, 0);
    const where = Number.isFinite(timeline.peak_column) ? this.moment(percent(timeline.peak_column)) : "";
    fill(this.alive, el("h3", null, "Alive at the peak"), el("p", { className: "quiet more" }, where),
      el("div", { className: "scroll" }, el("table", { className: "list" }, el("tbody", null, shown.map(row),
        rest ? el("tr", null, el("td", { className: "quiet" }, `${alive.length - 12} more`), el("td", { className: "n quiet" }, bytes(rest))) : null))));
  }

  /** What happens at a place within the step. */
  moment(x, axis) {
    if (axis || !this.timeline) return `${number(x)}%`;
    const n = this.timeline.columns.length;
    const i = Math.min(Math.floor((x * n) / 100 + 1e-6), n - 1);
    const holds = (p) => p.from <= i && i <= p.to;
    const block = this.timeline?.blocks?.find(holds);
    if (block) return `${block.phase}, block ${block.block}`;
    return this.timeline?.phases?.find(holds)?.name ?? `${number(x)}% of the step`;
  }
}

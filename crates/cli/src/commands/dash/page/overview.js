import { el, fill, refill, swatch } from "./dom.js";
import { bytes, count, duration, number, several } from "./format.js";
import { extent, last, median } from "./series.js";
import { colorOf } from "./run.js";

const RECENT = 50;

/** The least held-out loss after training has begun, and the first one. */
function held(run) {
  const losses = run.column("eval", "eval_loss");
  const steps = run.column("eval", "step");
  const trained = losses.filter((_, i) => steps[i] > 0);
  return { before: steps[0] === 0 ? losses[0] : NaN, now: last(trained), best: extent(trained)?.[0] ?? NaN };
}

const peakOf = (run) => extent(run.column("memory", "heap_peak_bytes"))?.[1] ?? run.fact("memory.heap_peak_bytes") ?? NaN;
const anonymousOf = (run) => extent(run.column("memory", "rss_anon_peak_bytes"))?.[1] ?? run.fact("memory.rss_anon_peak_bytes") ?? NaN;
const speedOf = (run) => median(run.column("train", "tokens_per_second").slice(-RECENT));

/** The figures that one looks for first. */
export function tiles(root, run) {
  const loss = run.column("train", "loss");
  const evals = held(run);
  const [peak, anonymous] = [peakOf(run), anonymousOf(run)];
  const elapsed = last(run.x("train", "time"));
  const [what] = run.status(Date.now());
  const eta = last(run.column("train", "eta"));
  const live = what === "live" && Number.isFinite(eta) && run.steps < run.totalSteps;
  const total = run.fact("seconds.total");
  const tile = (name, big, small) => el("dl", { className: "tile", id: `tile-${name.split(" ")[0].toLowerCase()}` },
    el("dt", null, name), el("dd", { className: "big" }, big), el("dd", { className: "small" }, small || "\u00a0"));
  fill(root,
    tile("Step", count(run.steps), Number.isFinite(run.totalSteps) ? `of ${count(run.totalSteps)}${run.steps ? `, epoch ${number(last(run.column("train", "epoch")))}` : ""}` : ""),
    tile("Loss", number(last(loss)), loss.length ? `first ${number(loss[0])}` : "no step yet"),
    tile("Held-out loss", number(Number.isFinite(evals.now) ? evals.now : evals.before),
      Number.isFinite(evals.now) ? [Number.isFinite(evals.before) ? `before ${number(evals.before)}` : "", `best ${number(evals.best)}`].filter(Boolean).join(", ")
        : Number.isFinite(evals.before) ? "before training" : "no --eval-data"),
    tile("Tokens per second", number(speedOf(run)), `median of last ${RECENT}`),
    tile("Peak memory", bytes(peak), [Number.isFinite(run.planned) ? `heap; planned ${bytes(run.planned)}` : "heap", run.budget > 0 ? `budget ${bytes(run.budget)}` : ""].filter(Boolean).join(", ")),
    tile("Process", bytes(anonymous), "anonymous, peak"),
    live ? tile("Time left", duration(eta), `${duration(elapsed)} so far`) : tile("Time", duration(total ?? elapsed), total ? "from start to end" : "since the run began"));
}

/** All runs as rows of a table, to compare, show, and look into. */
export class Runs {
  constructor(root, { focus, show }) {
    Object.assign(this, { root, focus, show });
  }

  update(runs, focused) {
    this.root.hidden = runs.length < 2;
    if (runs.length < 2) return;
    refill(this.root, runs.map((r) => r.name).join("\n"), () => this.make(runs));
    for (const run of runs) {
      const row = this.rows.get(run.id);
      row.className = run === focused ? "on" : "";
      row.name.setAttribute("aria-pressed", String(run === focused));
      row.box.checked = run.shown;
      const evals = held(run);
      const values = [run.status(this.live ? Date.now() : 0)[1], count(run.steps), number(last(run.column("train", "loss"))),
        number(Number.isFinite(evals.now) ? evals.now : evals.before), number(speedOf(run)), bytes(peakOf(run)), run.fact("method") ?? "–"];
      values.forEach((v, i) => { if (row.cells[i + 1].textContent !== v) row.cells[i + 1].textContent = v; });
    }
  }

  make(runs) {
    const head = ["run", "", "steps", "loss", "held-out", "tokens/s", "peak heap", "method"];
    this.rows = new Map();
    const row = (run) => {
      const box = el("input", { type: "checkbox", "aria-label": `Show ${run.name} in the charts`, onchange: () => this.show(run, box.checked) });
      box.style.accentColor = `var(${colorOf(run)})`;
      const name = el("button", { type: "button", className: "name", title: run.path, onclick: () => this.focus(run) }, run.name);
      const node = el("tr", null, el("td", null, el("label", { className: "pick" }, box), " ", swatch(`var(${colorOf(run)})`), name),
        head.slice(1).map((_, i) => el("td", { className: i > 0 && i < 6 ? "n" : "quiet" })));
      this.rows.set(run.id, Object.assign(node, { box, name }));
      return node;
    };
    return [el("h2", null, several(runs.length, "run")),
      el("div", { className: "card scroll" }, el("table", { className: "list" },
        el("thead", null, el("tr", null, head.map((h, i) => el("th", { scope: "col", className: i > 1 && i < 7 ? "n" : null }, h)))),
        el("tbody", null, runs.map(row))))];
  }
}

import { choice, el, remembered } from "./dom.js";
import { count, duration, number, short } from "./format.js";
import { last, smooth } from "./series.js";
import { Chart } from "./chart.js";
import { colorOf } from "./run.js";

const AXES = { step: (x, axis) => (axis ? short(x) : `step ${count(x)}`), tokens: (x, axis) => `${short(x)}${axis ? "" : " tokens"}`, time: (x) => duration(x) };

const MARKS = 30;

/** Loss, learning rate, gradient norm and speed. */
export class Training {
  constructor(root, view, changed) {
    this.view = view;
    this.axis = remembered.get("axis") ?? "step";
    if (!AXES[this.axis]) this.axis = "step";
    this.smoothing = Number(remembered.get("smoothing") ?? 0.6) || 0;
    const xFormat = (x, axis) => AXES[this.axis](x, axis);
    const chart = (options) => new Chart({ view, xFormat, format: number, ...options });
    this.loss = chart({ id: "loss", title: "Loss", height: 320, width: "w6", canLog: true });
    this.rate = chart({ id: "rate", title: "Learning rate", height: 170, width: "w2", zero: true });
    this.norm = chart({ id: "norm", title: "Gradient norm", height: 170, width: "w2", canLog: true, zero: true });
    this.speed = chart({ id: "speed", title: "Tokens per second", height: 170, width: "w2", zero: true });
    this.rewards = chart({ id: "rewards", title: "Rewards", height: 220, width: "w3" });
    this.ahead = chart({ id: "ahead", title: "Better completion ahead, share", height: 220, width: "w3", zero: true });
    const shown = el("output", { for: "smoothing" }, this.smoothing.toFixed(2));
    const slider = el("input", { id: "smoothing", type: "range", min: "0", max: "0.99", step: "0.01", value: String(this.smoothing) });
    slider.addEventListener("input", () => {
      this.smoothing = Number(slider.value);
      shown.textContent = this.smoothing.toFixed(2);
      remembered.set("smoothing", slider.value);
      changed();
    });
    const all = el("button", { type: "button", className: "ghost", hidden: true, onclick: () => view.setRange(null) }, "see all");
    view.on((what) => { if (what === "range") all.hidden = !view.range; });
    const pick = (axis) => {
      this.axis = axis;
      remembered.set("axis", axis);
      view.cursor = null;
      view.setRange(null);
      changed();
    };
    root.append(
      el("h2", null, "Training"),
      el("div", { className: "tools" },
        choice("Horizontal axis", [["step", "steps"], ["tokens", "tokens"], ["time", "time"]], this.axis, pick),
        el("label", null, "smoothing", slider, shown), all),
      el("div", { className: "grid" }, [this.loss, this.rewards, this.ahead, this.rate, this.norm, this.speed].map((c) => c.root)));
  }

  update(runs) {
    const one = runs.length === 1;
    const named = (run, what) => (one ? what : what === "loss" ? run.name : `${run.name} ${what}`);
    const waits = "Nothing yet: the first step is not done. Steps are read from `metrics.jsonl` as they are written.";
    const marks = one ? this.marks(runs[0]) : [];
    const loss = runs.flatMap((run) => {
      const [x, y, color] = [run.x("train", this.axis), run.column("train", "loss"), colorOf(run)];
      const smoothed = this.smoothing > 0;
      const raw = { kind: "line", label: smoothed ? "each step" : named(run, "loss"), color, x, y, width: smoothed ? 1 : 1.4, alpha: smoothed ? 0.3 : 1, quiet: smoothed && !one };
      const mean = { kind: "line", label: named(run, one ? "loss, smoothed" : "loss"), color, x, y: smooth(y, this.smoothing), width: 1.9 };
      const evals = { kind: "points", label: named(run, "held-out loss"), color: one ? "--s1" : color, x: run.x("eval", this.axis), y: run.column("eval", "eval_loss") };
      const between = { ...evals, kind: "line", quiet: true, width: 1.2, alpha: 0.6, dash: [4, 3] };
      return smoothed ? [raw, mean, between, evals] : [raw, between, evals];
    });
    const now = one ? `last ${number(last(runs[0].column("train", "loss")))}` : "";
    this.loss.set({ layers: loss, marks, now, none: waits });
    const lines = (chart, name, smoothed) => {
      const layers = runs.flatMap((run) => {
        const [x, y, color] = [run.x("train", this.axis), run.column("train", name), colorOf(run)];
        const label = one ? chart.title.toLowerCase() : run.name;
        const raw = { kind: "line", label, color, x, y, width: 1.5 };
        if (!smoothed || !this.smoothing || !y.length) return [{ ...raw, x: y.length ? x : [] }];
        return [{ ...raw, label: "each step", width: 1, alpha: 0.3, quiet: !one }, { ...raw, y: smooth(y, this.smoothing), label: one ? "smoothed" : label }];
      });
      chart.set({ layers, now: one ? number(last(runs[0].column("train", name))) : "", none: waits });
    };
    lines(this.rate, "learning_rate", false);
    lines(this.norm, "grad_norm", true);
    lines(this.speed, "tokens_per_second", true);
    this.preferences(runs, one);
  }

  /** Rewards of chosen and rejected completions, and how often the chosen one is ahead: of runs with a preference loss. */
  preferences(runs, one) {
    const having = (name) => runs.filter((run) => run.column("train", name).length);
    this.rewards.root.hidden = !having("rewards/chosen").length;
    this.ahead.root.hidden = !having("rewards/accuracies").length;
    const line = (run, name, label, color, more = {}) => {
      const y = run.column("train", name);
      return { kind: "line", label: one ? label : `${run.name} ${label}`, color, x: run.x("train", this.axis), y: smooth(y, this.smoothing), width: 1.6, ...more };
    };
    const points = (run, name, label, color) => ({ kind: "points", label, color, quiet: !one, x: run.x("eval", this.axis), y: run.column("eval", name) });
    const rewards = having("rewards/chosen").flatMap((run) => [
      line(run, "rewards/chosen", "chosen", one ? "--s2" : colorOf(run)),
      line(run, "rewards/rejected", "rejected", one ? "--s1" : colorOf(run), { dash: [4, 3] }),
    ]);
    const ahead = having("rewards/accuracies").flatMap((run) => [
      line(run, "rewards/accuracies", one ? "training, smoothed" : "", colorOf(run)),
      points(run, "rewards/accuracies", "held-out", one ? "--s1" : colorOf(run)),
    ]);
    this.rewards.set({ layers: rewards, now: one ? `margin ${number(last(runs[0].column("train", "rewards/margins")))}` : "" });
    this.ahead.set({ layers: ahead, now: one ? number(last(runs[0].column("train", "rewards/accuracies"))) : "" });
  }

  /** Where the run went on, and where something was wrong; the newest, if there are many. */
  marks(run) {
    const wrong = { non_finite: "not finite", spike: "spike" };
    const resumed = run.items("run").filter((r) => r.step > 0).map((r) => ({ step: r.step, label: "resumed" }));
    const events = run.items("event").filter((e) => wrong[e.kind]).map((e) => ({ step: e.step, label: wrong[e.kind], color: "--warn" }));
    return [...resumed, ...events].slice(-MARKS).map((m) => ({ ...m, x: this.place(run, m.step) }));
  }

  /** Where a step is on the axis. */
  place(run, step) {
    const steps = run.column("train", "step");
    const i = steps.findIndex((s) => s >= step);
    return i < 0 ? step : run.x("train", this.axis)[i];
  }
}

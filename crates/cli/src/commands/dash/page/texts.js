import { el, empty, refill, toggle } from "./dom.js";
import { bytes, count, duration, number, several } from "./format.js";

const FIRST = 6;

/** Rows with what is trained of them in color. */
export class Samples {
  constructor(root) {
    this.all = false;
    this.tokens = false;
    this.body = el("div", { className: "card" });
    const borders = toggle("token borders", "Show where tokens begin and end", false, (on) => { this.tokens = on; this.show(); });
    const legend = el("p", { className: "tools" }, el("span", { className: "text" }, el("mark", null, " trained ")), el("span", null, "read only"), borders);
    root.append(el("h2", null, "Samples"), legend, this.body);
  }

  update(run) {
    this.run = run;
    this.show();
  }

  show() {
    const samples = this.run.items("sample");
    refill(this.body, `${this.run.id} ${samples.length} ${this.all} ${this.tokens}`, () => {
      if (!samples.length) return empty("No rows to look at: `mesp train --samples N` writes the first rows as they are trained. It is off by itself under a memory budget, since a tokenizer takes memory.");
      const shown = this.all ? samples : samples.slice(0, FIRST);
      return [shown.map((s) => this.sample(s)), more(samples.length - shown.length, () => { this.all = true; this.show(); })];
    });
  }

  sample(sample) {
    const tokens = sample.tokens ?? [];
    const trained = tokens.filter((t) => t.trained).length;
    const share = tokens.length ? `${Math.round((100 * trained) / tokens.length)}% trained` : "no tokens";
    const cut = sample.cut ? `, the first ${count(tokens.length)} shown` : "";
    const parts = [];
    for (let i = 0; i < tokens.length;) {
      const on = Boolean(tokens[i].trained);
      const from = i;
      while (i < tokens.length && Boolean(tokens[i].trained) === on) i++;
      const run = tokens.slice(from, i);
      const text = (t) => t.text ?? `[${t.id}]`;
      const inside = this.tokens ? run.map((t) => el("span", { className: "tok", title: `token ${t.id}` }, text(t))) : run.map(text).join("");
      parts.push(el(on ? "mark" : "span", { className: on ? null : "off" }, inside));
    }
    return el("article", { className: "sample" },
      el("header", null, `${sample.row ?? "row"} · ${several(sample.total_tokens ?? tokens.length, "token")}, ${share}${cut}`),
      el("pre", { className: "text", tabindex: "0" }, parts));
  }
}

/** What the model said before, and says now. */
export class Generations {
  constructor(root) {
    this.body = el("div", { className: "card" });
    root.append(el("h2", null, "Before and after"), this.body);
  }

  update(run) {
    const said = run.items("generation");
    refill(this.body, `${run.id} ${said.length}`, () => {
      if (!said.length) return empty("No answers to compare: `mesp train --sample-prompt TEXT` asks the model before, during and after the run.");
      const prompts = new Map();
      for (const s of said) prompts.set(s.prompt, [...(prompts.get(s.prompt) ?? []), s]);
      return [...prompts].map(([prompt, answers]) => this.pair(prompt, answers));
    });
  }

  pair(prompt, answers) {
    const before = answers.find((a) => a.when === "before");
    const later = answers.filter((a) => a !== before);
    const after = later.at(-1);
    const side = (title, text) => el("div", null, el("h4", null, title), el("p", { className: "text" }, text));
    const between = later.slice(0, -1);
    return el("article", { className: "pair" }, el("div", { className: "prompt" }, prompt),
      before ? side("before", before.text) : side("before", "not asked"),
      after ? side(after.when === "end" ? `after step ${count(after.step)}` : `at step ${count(after.step)}`, after.text) : side("after", "not there yet"),
      between.length ? el("details", { className: "prompt quiet" }, el("summary", null, `${several(between.length, "answer")} between`),
        between.map((a) => side(`step ${count(a.step)}`, a.text))) : null);
  }
}

const BAD = ["non_finite", "spike", "folder_made_again"];
const NEWEST = 300;

/** Settings, and what happened. */
export class About {
  constructor(root) {
    this.facts = el("div", { className: "card w3", id: "settings" });
    this.events = el("div", { className: "card w3", id: "events" });
    root.append(el("h2", null, "Run"), el("div", { className: "grid" }, this.facts, this.events));
  }

  update(run) {
    refill(this.facts, `${run.id} ${run.items("run").length} ${Boolean(run.summary)}`, () => [el("h3", null, "Settings"), this.settings(run)]);
    const notes = this.notes(run);
    refill(this.events, `${run.id} ${notes.length}`, () => [el("h3", null, "Events"),
      notes.length ? el("ol", { className: "notes", tabindex: "0", "aria-label": "Events" }, notes.slice(-NEWEST).reverse()) : empty("Nothing out of the ordinary has happened.")]);
  }

  settings(run) {
    const begin = run.begin;
    const summary = { ...run.summary };
    for (const other of ["loss", "memory", "seconds", "work", "command", "schema"]) delete summary[other];
    const told = { ...summary, ...begin.settings, rows: begin.rows, data_counts: begin.data, program: begin.mesp ?? run.summary?.mesp };
    if (!begin.settings && begin.method) told.method ??= begin.method;
    delete told.mesp;
    const facts = [["folder", run.path]];
    if (begin.time) facts.push(["begun", new Date(begin.time * 1000).toLocaleString()]);
    flatten(told, "", facts);
    const seconds = run.summary?.seconds;
    if (seconds) facts.push(["time", `${duration(seconds.total)}, ${duration(seconds.prepare)} of it before the first step`]);
    if (run.summary?.command) facts.push(["command", el("code", null, `mesp ${run.summary.command.join(" ")}`)]);
    if (facts.length === 1) return empty("Settings come with the `run` line, and in `run.json` when the run ends.");
    return el("dl", { className: "facts" }, facts.map(([name, value]) => [el("dt", null, name), el("dd", null, value)]));
  }

  notes(run) {
    const line = (step, text, bad) => el("li", null, el("span", { className: "at" }, step === undefined ? "" : `step ${count(step)}`), el("span", { style: bad ? { color: "var(--bad)" } : null }, text));
    const notes = [];
    for (const r of run.items("run")) notes.push([r.step ?? 0, line(r.step, r.step > 0 ? "went on from a checkpoint" : `began: ${several(r.rows ?? NaN, "row")}, ${count(r.parameters ?? NaN)} trainable parameters`)]);
    for (const e of run.items("event")) {
      const rows = e.rows?.length ? ` (${e.rows.slice(0, 8).join(", ")}${e.rows.length > 8 ? ", …" : ""})` : "";
      const text = e.message ?? e.kind ?? "";
      notes.push([e.step, line(e.step, e.rows?.some((r) => text.includes(r)) ? text : text + rows, BAD.includes(e.kind))]);
    }
    for (const e of run.items("end")) notes.push([e.step, line(e.step, `ended: ${e.status}`, e.status === "failed")]);
    return notes.sort((a, b) => a[0] - b[0]).map((n) => n[1]);
  }
}

function more(n, show) {
  return n > 0 ? el("button", { type: "button", className: "ghost more", onclick: show }, `show ${count(n)} more`) : null;
}

/** Names and values of nested settings, those that are set. */
function flatten(value, path, out) {
  for (const [name, inner] of Object.entries(value)) {
    const key = path ? `${path} ${name}` : name;
    if (inner === null || inner === undefined) continue;
    if (Array.isArray(inner)) out.push([label(key), inner.map((v) => (typeof v === "object" ? JSON.stringify(v) : String(v))).join(", ")]);
    else if (typeof inner === "object") flatten(inner, key, out);
    else out.push([label(key), said(key, inner)]);
  }
}

const label = (key) => key.replaceAll("_", " ").replace("data counts", "data");

function said(key, value) {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value !== "number") return String(value);
  if (/_bytes$|memory_budget$/.test(key)) return bytes(value);
  return Number.isInteger(value) ? (key === "seed" ? String(value) : count(value)) : number(value);
}

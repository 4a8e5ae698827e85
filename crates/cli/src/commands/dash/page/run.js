import { last } from "./series.js";

/** Silence after which a run is not called live, at the least, and in steps. */
const SILENT_MS = 60000;
const SILENT_STEPS = 10;

/** A run as far as it is known. */
export class Run {
  constructor(id) {
    this.id = id;
    this.shown = true;
    this.clear();
  }

  clear() {
    this.tables = {};
    this.kinds = {};
    this.summary = null;
    this.cache = {};
  }

  /** Takes what the program says is new. */
  apply(news) {
    if (news.reset) this.clear();
    Object.assign(this, { name: news.name, path: news.path, modified: news.modified, trouble: news.trouble, torn: news.torn, thinned: news.thinned });
    if ("summary" in news) this.summary = news.summary;
    for (const [name, { from, columns }] of Object.entries(news.tables)) {
      const table = (this.tables[name] ??= { rows: 0, columns: {} });
      let rows = from;
      for (const [column, values] of Object.entries(columns)) {
        const known = (table.columns[column] ??= []);
        while (known.length < from) known.push(NaN);
        for (const v of values) known.push(v === null ? NaN : v);
        rows = known.length;
      }
      table.rows = rows;
    }
    for (const [kind, { gone, list }] of Object.entries(news.items)) {
      const known = (this.kinds[kind] ??= { gone: 0, list: [] });
      known.list.splice(0, Math.max(0, gone - known.gone));
      known.gone = gone;
      for (const one of list) known.list.push(one);
    }
    this.cache = {};
    this.version = (this.version ?? 0) + 1;
  }

  /** A column, or an empty one. */
  column(table, name) {
    return this.tables[table]?.columns[name] ?? [];
  }

  /** Names of a table's columns. */
  columns(table) {
    return Object.keys(this.tables[table]?.columns ?? {});
  }

  /** Events of other kinds, under any of these names. */
  items(...kinds) {
    return kinds.flatMap((kind) => this.kinds[kind]?.list ?? []);
  }

  /** The newest beginning. */
  get begin() {
    return this.items("run").at(-1) ?? {};
  }

  get steps() {
    const done = last(this.column("train", "step"));
    return Number.isFinite(done) ? done : this.summary?.steps ?? 0;
  }

  get totalSteps() {
    return this.begin.total_steps ?? this.summary?.steps ?? NaN;
  }

  /** Something that the run says of itself, in its beginning, its settings or its summary, by a dotted path. */
  fact(...paths) {
    for (const path of paths) {
      for (const source of [this.begin, this.begin.settings, this.summary]) {
        const value = path.split(".").reduce((o, key) => o?.[key], source);
        if (value !== undefined && value !== null) return value;
      }
    }
    return undefined;
  }

  get budget() {
    return last(this.column("memory", "budget_bytes")) || this.fact("memory.budget_bytes", "budget_bytes", "memory_budget");
  }

  get planned() {
    const told = last(this.column("memory", "planned_bytes"));
    return Number.isFinite(told) ? told : this.fact("memory.planned_bytes", "planned_bytes");
  }

  /** Where the run stands: done, interrupted, failed, live, silent or waiting, and in words. */
  status(now) {
    if (this.trouble) return ["failed", "in trouble"];
    const begun = this.kinds.run?.list.length ?? 0;
    const end = this.items("end").at(-1);
    // An end before the newest beginning is that of an earlier process.
    const ended = end && (this.items("end").length >= begun || end.step > (this.begin.step ?? 0));
    const told = ended ? end.status : begun ? null : this.summary?.status;
    if (told) return { done: ["done", "done"], stopped: ["done", "stopped early"], interrupted: ["interrupted", "interrupted"] }[told] ?? ["failed", told];
    if (!begun && !this.steps) return ["waiting", "not begun"];
    const elapsed = this.column("train", "elapsed");
    const step = elapsed.length > 1 ? (elapsed.at(-1) - elapsed[0]) / (elapsed.length - 1) : 0;
    const age = now - (this.modified ?? 0);
    if (now && age > Math.max(SILENT_MS, SILENT_STEPS * 1000 * step)) return ["silent", `no news for ${ago(age)}`];
    return now ? ["live", "live"] : ["silent", "not ended"];
  }

  /** The x of every row of a table, in steps, tokens or seconds. */
  x(table, axis) {
    const key = `${table}.${axis}`;
    return (this.cache[key] ??= this.axis(table, axis));
  }

  axis(table, axis) {
    const steps = this.column(table, "step");
    if (axis === "step") return steps;
    const name = axis === "tokens" ? "num_tokens" : "elapsed";
    const told = table === "train" ? rising(this.column("train", name)) : null;
    if (told) return told;
    // Only steps know tokens and time: the other events are put where their step is.
    const [known, values] = [this.column("train", "step"), this.x("train", axis)];
    let i = 0;
    return steps.map((step) => {
      while (i + 1 < known.length && known[i + 1] <= step) i++;
      return known.length && known[i] <= step ? values[i] : 0;
    });
  }
}

/** Counts that begin anew when a run is resumed, as if they had gone on. */
function rising(values) {
  let [add, before] = [0, 0];
  return values.map((v) => {
    if (!Number.isFinite(v)) return before;
    if (v + add < before) add = before;
    before = v + add;
    return before;
  });
}

function ago(ms) {
  const minutes = ms / 60000;
  return minutes < 120 ? `${Math.round(minutes)} min` : minutes < 2880 ? `${Math.round(minutes / 60)} h` : `${Math.round(minutes / 1440)} days`;
}

/** A run's color. */
export function colorOf(run) {
  return `--s${run.id % 8}`;
}

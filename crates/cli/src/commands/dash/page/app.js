import { el, empty, fill, remembered } from "./dom.js";
import { Memory } from "./memory.js";
import { About, Generations, Samples } from "./texts.js";
import { Runs, tiles } from "./overview.js";
import { Run } from "./run.js";
import { Training } from "./training.js";
import { View } from "./view.js";
import { connect } from "./source.js";

const part = (id) => document.getElementById(id);

const runs = [];
let focused = null;
let state = "waiting";
let drawn = false;

const view = new View();
const training = new Training(part("training"), view, update);
const memory = new Memory(part("memory"), view, training);
const samples = new Samples(part("samples"));
const generations = new Generations(part("generations"));
const about = new About(part("about"));
const table = new Runs(part("runs"), {
  focus(run) {
    focused = run;
    run.shown = true;
    update();
  },
  show(run, shown) {
    run.shown = shown;
    update();
  },
});

/** Draws everything once, when the browser next draws. */
function update() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    draw();
  });
}

function draw() {
  const live = state !== "report";
  table.live = live;
  for (const id of ["tiles", "training", "memory", "samples", "generations", "about"]) part(id).hidden = !focused;
  if (!focused) return head(live, []);
  const wrong = [];
  const show = (name, panel) => {
    try {
      panel();
    } catch (error) {
      wrong.push(`${name} of ${focused.name} cannot be shown: ${error.message}`);
    }
  };
  show("The table", () => table.update(runs, focused));
  show("The figures", () => tiles(part("tiles"), focused));
  show("The training", () => training.update(runs.filter((run) => run.shown)));
  show("The memory", () => memory.update(focused));
  show("The samples", () => samples.update(focused));
  show("The answers", () => generations.update(focused));
  show("The settings", () => about.update(focused));
  head(live, wrong);
  const name = runs.length > 1 ? ` · ${focused.name}` : "";
  for (const [id, title] of [["memory", "Memory"], ["samples", "Samples"], ["generations", "Before and after"], ["about", "Run"]]) {
    part(id).querySelector("h2").textContent = title + name;
  }
}

function head(live, notes) {
  const status = part("status");
  const links = { waiting: "connecting…", connected: "", lost: "connection lost; trying again…", report: "report" };
  part("link").textContent = links[state];
  if (!focused) {
    status.hidden = true;
    part("title").textContent = "";
    if (state === "connected") fill(part("trouble"), empty("No run here yet. A run that `mesp train --output DIR` begins in this folder appears by itself."));
    return;
  }
  status.hidden = false;
  const [what, words] = focused.status(live ? Date.now() : 0);
  const unknown = state === "lost" && what === "live";
  status.className = `pill ${unknown ? "silent" : what}`;
  status.textContent = unknown ? "connection lost" : words;
  part("title").textContent = focused.name;
  document.title = `${focused.name} · mesp`;
  const share = Math.min(100, (100 * focused.steps) / focused.totalSteps);
  const bar = part("progress");
  bar.hidden = !(what === "live" && Number.isFinite(share));
  bar.setAttribute("aria-valuenow", Math.round(share) || 0);
  bar.firstElementChild.style.width = `${share || 0}%`;
  if (focused.trouble) notes.push(focused.trouble);
  if (focused.thinned) notes.push(`${focused.thinned} events of this run are left out of the charts: it has more than this page keeps.`);
  if (focused.torn) notes.push(`${focused.torn} ${focused.torn === 1 ? "line" : "lines"} of metrics.jsonl cannot be read and ${focused.torn === 1 ? "is" : "are"} left out.`);
  const key = notes.join("\n");
  if (part("trouble").shown !== key) {
    part("trouble").shown = key;
    fill(part("trouble"), notes.map((note) => el("p", { className: "warn" }, note)));
  }
}

function take(news, fresh) {
  // A program that was started anew may show others.
  if (fresh && (runs.length > news.count || news.runs.some((r) => runs[r.id] && runs[r.id].path !== r.path))) {
    runs.length = 0;
    focused = null;
  }
  for (const one of news.runs) (runs[one.id] ??= new Run(one.id)).apply(one);
  // The newest is what one wants to see; it stays in view when others come.
  focused ??= [...runs].sort((a, b) => (b.modified ?? 0) - (a.modified ?? 0))[0] ?? null;
  update();
}

const THEMES = ["auto", "light", "dark"];
const dark = matchMedia("(prefers-color-scheme: dark)");
let theme = remembered.get("theme");
if (!THEMES.includes(theme)) theme = "auto";

function wear() {
  const now = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
  document.documentElement.dataset.theme = now;
  document.documentElement.style.colorScheme = now;
  part("theme").textContent = theme;
  part("theme").setAttribute("aria-label", `Colors: ${theme}`);
  update();
}

part("theme").addEventListener("click", () => {
  theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
  remembered.set("theme", theme);
  wear();
});
dark.addEventListener("change", wear);
// Ages and silence change without news.
setInterval(() => { if (state !== "report") update(); }, 5000);

wear();
connect(take, (next) => {
  state = next;
  update();
});

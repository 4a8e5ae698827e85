// What several charts share: the part of the run that is seen, and the place that is pointed at.

/** Listeners hear of `range` and of `cursor`. */
export class View {
  constructor() {
    /** The range of x, or null for everything. */
    this.range = null;
    /** The x that is pointed at, or null. */
    this.cursor = null;
    this.listeners = [];
  }

  on(listener) {
    this.listeners.push(listener);
  }

  setRange(range) {
    this.range = range;
    this.listeners.forEach((l) => l("range"));
  }

  setCursor(x) {
    if (this.cursor === x) return;
    this.cursor = x;
    this.listeners.forEach((l) => l("cursor"));
  }
}

// Numbers for people, as the program prints them.

/** Four digits, or a power of ten. */
export function number(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  const size = Math.abs(x);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e7) return x.toExponential(2).replace("e+", "e");
  if (size >= 1e4) return Math.round(x).toLocaleString("en-US");
  return String(Number(x.toPrecision(4)));
}

/** Whole, with separators. */
export function count(x) {
  if (!Number.isFinite(x)) return "–";
  return Math.round(x).toLocaleString("en-US");
}

/** `4.40 M`. */
export function short(x) {
  if (!Number.isFinite(x)) return "–";
  return scaled(x, [[1e12, " T"], [1e9, " G"], [1e6, " M"], [1e4, " k", 1e3]]) ?? count(x);
}

/** `43.9 MB`: decimal units. */
export function bytes(x) {
  if (!Number.isFinite(x)) return "–";
  return scaled(x, [[1e9, " GB"], [1e6, " MB"], [1e3, " kB"]]) ?? `${Math.round(x)} B`;
}

function scaled(x, units) {
  const unit = units.find(([from]) => Math.abs(x) >= from * 0.9995);
  if (!unit) return null;
  const y = x / (unit[2] ?? unit[0]);
  return y.toFixed(Math.abs(y) < 9.995 ? 2 : Math.abs(y) < 99.95 ? 1 : 0) + unit[1];
}

/** `9.1s`, `3m 05s`, `2h 14m`. */
export function duration(s) {
  if (!Number.isFinite(s) || s < 0) return "–";
  const whole = Math.round(s);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 0.995) return `${s.toFixed(2)}s`;
  if (whole < 60) return `${s.toFixed(1)}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  if (whole < 172800) return `${Math.floor(whole / 3600)}h ${two(Math.floor((whole % 3600) / 60))}m`;
  return `${Math.floor(whole / 86400)}d ${Math.floor((whole % 86400) / 3600)}h`;
}

/** `1 run`, `3 runs`. */
export function several(n, word) {
  return `${count(n)} ${word}${n === 1 ? "" : "s"}`;
}

// From values to pixels, and the values that an axis names.

/** Round steps of 1, 2 or 5 times a power of ten, about so many of them. */
export function ticks([low, high], about) {
  const raw = (high - low) / Math.max(1, about);
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((m) => m * power >= raw * 0.999) ?? 10);
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(Number((i * step).toPrecision(12)));
  return out;
}

function logTicks([low, high], about) {
  const [from, to] = [Math.floor(Math.log10(low)), Math.ceil(Math.log10(high))];
  const every = Math.max(1, Math.ceil((to - from) / about));
  const digits = to - from <= 1 ? [1, 2, 3, 5, 7] : to - from <= 3 ? [1, 2, 5] : [1];
  const out = [];
  for (let p = from; p <= to; p += every) for (const d of digits) out.push(d * 10 ** p);
  const shown = out.filter((t) => t >= low * 0.999 && t <= high * 1.001);
  return shown.length > 1 ? shown : ticks([low, high], about);
}

/** A linear or logarithmic scale from a domain onto pixels. */
export function scale(domain, pixels, log = false) {
  const f = log ? Math.log : (v) => v;
  const g = log ? Math.exp : (v) => v;
  const [a, b] = domain.map(f);
  const [p, q] = pixels;
  const k = b > a ? (q - p) / (b - a) : 0;
  const to = (v) => p + (f(v) - a) * k;
  to.back = (pixel) => (k ? g(a + (pixel - p) / k) : domain[0]);
  to.ticks = (about) => (log ? logTicks(domain, about) : ticks(domain, about));
  to.domain = domain;
  return to;
}

/** A domain with air around the data. */
export function roomy(range, log, zero) {
  if (!range) return log ? [0.1, 1] : [0, 1];
  let [low, high] = range;
  if (log) {
    const air = low < high ? (high / low) ** 0.06 : 1.5;
    return [low / air, high * air];
  }
  if (zero) low = Math.min(0, low);
  const air = high > low ? (high - low) * 0.06 : Math.abs(high) * 0.1 || 1;
  return [zero && low === 0 ? 0 : low - air, high + air];
}

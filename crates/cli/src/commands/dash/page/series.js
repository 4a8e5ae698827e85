// Columns of numbers; gaps are NaN.

/** Running mean with the weight of the past, free of the start's bias; gaps are passed over. */
export function smooth(values, weight) {
  if (!weight) return values;
  const out = new Float64Array(values.length);
  let sum = 0;
  let norm = 0;
  for (let i = 0; i < values.length; i++) {
    const v = values[i];
    if (Number.isFinite(v)) {
      sum = weight * sum + (1 - weight) * v;
      norm = weight * norm + (1 - weight);
    }
    out[i] = Number.isFinite(v) && norm > 0 ? sum / norm : NaN;
  }
  return out;
}

/** The first index whose value is at least `x`; values rise. */
export function lowerBound(values, x) {
  let low = 0;
  let high = values.length;
  while (low < high) {
    const mid = (low + high) >> 1;
    if (values[mid] < x) low = mid + 1;
    else high = mid;
  }
  return low;
}

/** The index of the value nearest to `x`, or -1. */
export function nearest(values, x) {
  if (!values.length) return -1;
  const i = lowerBound(values, x);
  if (i === 0) return 0;
  if (i === values.length) return i - 1;
  return x - values[i - 1] <= values[i] - x ? i - 1 : i;
}

/** The indices that a range of x shows, one more on each side so that lines go on. */
export function within(x, [from, to]) {
  return [Math.max(0, lowerBound(x, from) - 1), Math.min(x.length, lowerBound(x, to) + 1)];
}

/** The least and the greatest of values[from..to] that `fits`. */
export function extent(values, from = 0, to = values.length, fits = Number.isFinite) {
  let low = Infinity;
  let high = -Infinity;
  for (let i = from; i < to; i++) {
    const v = values[i];
    if (!fits(v)) continue;
    if (v < low) low = v;
    if (v > high) high = v;
  }
  return low <= high ? [low, high] : null;
}

/**
 * What a line over so many points shows on so few pixels: of each pixel's column the first, least, greatest and
 * last value, in the order in which they come; a gap is an index of -1. No extreme is lost.
 */
export function thin(x, y, [from, to], pixel) {
  const kept = [];
  let i = from;
  while (i < to) {
    const column = Math.floor(pixel(x[i]));
    let first = -1;
    let last = -1;
    let least = -1;
    let most = -1;
    let gap = false;
    for (; i < to && Math.floor(pixel(x[i])) === column; i++) {
      if (!Number.isFinite(y[i])) {
        gap = true;
        continue;
      }
      if (first < 0) first = least = most = i;
      if (y[i] < y[least]) least = i;
      if (y[i] > y[most]) most = i;
      last = i;
    }
    if (first < 0) {
      if (gap) kept.push(-1);
      continue;
    }
    const middle = least < most ? [least, most] : [most, least];
    for (const k of [first, ...middle, last]) if (kept[kept.length - 1] !== k) kept.push(k);
  }
  return kept;
}

/** The last finite value, or NaN. */
export function last(values) {
  for (let i = (values?.length ?? 0) - 1; i >= 0; i--) if (Number.isFinite(values[i])) return values[i];
  return NaN;
}

/** The middle value. */
export function median(values) {
  const sorted = Array.from(values).filter(Number.isFinite).sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : NaN;
}

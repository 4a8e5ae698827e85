import { css } from "./dom.js";
import { thin, within } from "./series.js";

// What a chart draws. `at` has the scales, x and y.

/** Room around the drawing for the axes. */
export const PAD = { left: 58, right: 12, top: 10, bottom: 24 };

/** The grid, and the values that it stands for. */
export function axes(c, chart, w, h) {
  c.font = "11px system-ui, sans-serif";
  c.fillStyle = css("--soft");
  c.strokeStyle = css("--grid");
  c.lineWidth = 1;
  c.textBaseline = "middle";
  c.textAlign = "right";
  for (const t of chart.y.ticks(Math.max(4, h / 55))) {
    const y = Math.round(chart.y(t)) + 0.5;
    c.beginPath();
    c.moveTo(PAD.left, y);
    c.lineTo(w - PAD.right, y);
    c.stroke();
    c.fillText(chart.format(t), PAD.left - 8, y);
  }
  c.textBaseline = "alphabetic";
  c.textAlign = "center";
  let free = -Infinity;
  for (const t of chart.x.ticks(w / 80)) {
    const text = chart.xFormat(t, true);
    const half = c.measureText(text).width / 2;
    const x = Math.min(chart.x(t), w - half - 2);
    if (x - half < free) continue;
    c.fillText(text, x, h - 7);
    free = x + half + 10;
  }
}

function line(c, at, { x, y, color, width = 1.6, alpha = 1, dash }, domain, fits) {
  const kept = thin(x, y, within(x, domain), at.x);
  c.strokeStyle = css(color);
  c.globalAlpha = alpha;
  c.lineWidth = width;
  c.lineJoin = "round";
  c.setLineDash(dash ?? []);
  c.beginPath();
  let on = false;
  for (const i of kept) {
    if (i < 0 || !fits(y[i])) on = false;
    else if (on) c.lineTo(at.x(x[i]), at.y(y[i]));
    else {
      c.moveTo(at.x(x[i]), at.y(y[i]));
      on = true;
    }
  }
  c.stroke();
  c.setLineDash([]);
  c.globalAlpha = 1;
  if (kept.length === 1 && kept[0] >= 0) points(c, at, { x, y, color, size: 2.5 }, domain, fits);
}

function points(c, at, { x, y, color, size = 3.6 }, domain, fits) {
  const [from, to] = within(x, domain);
  c.fillStyle = css(color);
  c.strokeStyle = css("--card");
  c.lineWidth = 1.5;
  for (let i = from; i < to; i++) {
    if (!fits(y[i])) continue;
    c.beginPath();
    c.arc(at.x(x[i]), at.y(y[i]), size, 0, 7);
    c.fill();
    c.stroke();
  }
}

function area(c, at, { x, y, base, color, alpha = 0.85, steps }, domain) {
  const [from, to] = within(x, domain);
  const kept = thin(x, y, [from, to], at.x).filter((i) => i >= 0);
  if (!kept.length) return;
  c.fillStyle = css(color);
  c.globalAlpha = alpha;
  c.beginPath();
  const path = (values, order) => {
    let before = null;
    for (const i of order) {
      const [px, py] = [at.x(x[i]), at.y(values ? values[i] : at.y.domain[0])];
      if (steps && before !== null) c.lineTo(px, before);
      c.lineTo(px, py);
      before = py;
    }
  };
  path(y, kept);
  if (steps) {
    for (let k = kept.length - 1; k >= 0; k--) {
      const [i, next] = [kept[k], kept[Math.min(k + 1, kept.length - 1)]];
      c.lineTo(at.x(x[next]), at.y(base[i]));
      c.lineTo(at.x(x[i]), at.y(base[i]));
    }
  } else path(base, kept.reverse());
  c.closePath();
  c.fill();
  c.globalAlpha = 1;
}

/** A horizontal line. */
export function drawLevel(c, at, { y, color, dash }, w) {
  c.strokeStyle = css(color);
  c.lineWidth = 1.4;
  c.setLineDash(dash ?? []);
  c.beginPath();
  c.moveTo(PAD.left, at.y(y));
  c.lineTo(w - PAD.right, at.y(y));
  c.stroke();
  c.setLineDash([]);
}

/** Vertical lines with their names, where there is room for one; those `below` are ticks on the ground. */
export function drawMarks(c, at, marks, w, h) {
  c.font = "10px system-ui, sans-serif";
  for (const below of [false, true]) {
    const shown = marks.filter((m) => Boolean(m.below) === below).map((m) => ({ ...m, px: Math.round(at.x(m.x)) + 0.5 }));
    shown.forEach(({ px, label, color = below ? "--ink" : "--line" }, i) => {
      c.strokeStyle = css(color);
      c.lineWidth = 1;
      c.beginPath();
      c.moveTo(px, below ? h - PAD.bottom - 5 : PAD.top);
      c.lineTo(px, h - PAD.bottom);
      c.stroke();
      const room = (shown[i + 1]?.px ?? w - PAD.right) - px;
      if (c.measureText(label).width + 6 > room) return;
      c.fillStyle = css(below ? "--ink" : "--soft");
      c.textAlign = "left";
      c.fillText(label, px + 4, below ? h - PAD.bottom - 3 : PAD.top + 8);
    });
  }
}

/** How layers are drawn, by their kind. */
export const paint = { line, points, area };

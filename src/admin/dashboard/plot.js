// Plots of the last ten minutes as SVG: axes with units, a legend, and the values under the pointer or the arrow keys.

import { h, svg, put } from "./dom.js";

/** The time that a plot shows, in seconds. */
export const SPAN = 600;

/** The width in pixels if the plot is not on the page yet, and the least and the greatest one. */
const WIDTHS = [480, 260, 700];
const HEIGHT = 190;
const LEFT = 66;
const RIGHT = 10;
const TOP = 12;
const BOTTOM = 28;

/** The spans of time that a plot may show, in seconds. It begins with the shortest. */
const SPANS = [60, 120, 300, SPAN];

/** The next value of 1, 2, 5, 10 and so on, or, for bytes, of the same times 1024, 1024² and so on. */
function roundUp(value, isBytes) {
  if (!(value > 0)) return 1;
  const unit = isBytes ? 1024 ** Math.max(0, Math.floor(Math.log2(value) / 10)) : 1;
  const power = 10 ** Math.floor(Math.log10(value / unit)) * unit;
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999999) ?? value;
}

function agoInWords(seconds) {
  if (seconds === 0) return "now";
  return seconds % 60 === 0 ? `−${seconds / 60} min` : `−${seconds} s`;
}

/**
 * A plot. `series`: names, in the order of their values. `format` shows a value. `draw(samples, now)` takes samples of
 * `{at, values}` in seconds; a value that is no number leaves a gap.
 */
export function plot(title, note, format, { least = 1, isBytes = false } = {}) {
  const area = svg("svg", { role: "img", "aria-label": title });
  const legend = h("p", { class: "legend" });
  const element = h("figure", { tabindex: 0, "aria-label": title },
    h("figcaption", {}, h("h2", {}, title), note && h("p", {}, note)), area, legend);
  let shown = { samples: [], now: 0, names: [] };
  let cursor = null;
  let span = SPANS[0];
  let width = WIDTHS[0];
  const x = (ago) => LEFT + (1 - ago / span) * (width - LEFT - RIGHT);

  function lineOf(samples, now, place, y) {
    const parts = [];
    let part = [];
    for (const sample of samples) {
      const value = sample.values[place];
      if (Number.isFinite(value)) {
        part.push(`${x(now - sample.at).toFixed(1)},${y(value).toFixed(1)}`);
      } else if (part.length > 0) {
        parts.push(part);
        part = [];
      }
    }
    if (part.length > 0) parts.push(part);
    // A line of one point would not be seen.
    return parts.map((points) => svg("polyline", { class: `line s${place % 8}`, points: [...points, points.at(-1)].join(" ") }));
  }

  /** The sample that the legend shows: the one at the cursor, or the last. */
  function chosen() {
    const { samples, now } = shown;
    if (cursor === null || samples.length === 0) return samples.at(-1);
    const distance = (sample) => Math.abs(now - cursor - sample.at);
    return samples.reduce((best, sample) => (distance(sample) < distance(best) ? sample : best));
  }

  function paint() {
    const { samples, now, names } = shown;
    // One unit is one pixel, so that words keep their size on a narrow screen.
    width = Math.max(WIDTHS[1], Math.min(WIDTHS[2], area.clientWidth || WIDTHS[0]));
    area.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const oldest = now - (samples[0]?.at ?? now);
    span = SPANS.find((each) => each >= oldest) ?? SPAN;
    const most = Math.max(least, ...samples.flatMap((sample) => sample.values.filter(Number.isFinite)));
    const top = roundUp(most, isBytes);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const parts = [];
    for (let tick = 0; tick <= 4; tick += 1) {
      const value = (top * tick) / 4;
      parts.push(svg("line", { class: tick === 0 ? "axis" : "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      parts.push(svg("text", { class: "end", x: LEFT - 6, y: y(value) + 4 }, format(value)));
    }
    const steps = width < 400 ? 2 : 5;
    for (let step = steps; step >= 0; step -= 1) {
      const ago = (span * step) / steps;
      parts.push(svg("text", { class: step === 0 ? "end" : "middle", x: x(ago), y: HEIGHT - 8 }, agoInWords(ago)));
    }
    names.forEach((_, place) => parts.push(...lineOf(samples, now, place, y)));
    const sample = chosen();
    const isPast = cursor !== null && sample !== undefined;
    if (isPast) {
      const at = x(now - sample.at);
      parts.push(svg("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    put(area, parts);
    // What is read aloud is what the keys have asked for, not each second's change.
    legend.setAttribute("aria-live", isPast ? "polite" : "off");
    put(legend, isPast && h("span", {}, `${Math.round(now - sample.at)} s ago`),
      names.map((name, place) => h("span", {}, h("i", { class: `key s${place % 8}` }), `${name} `,
        h("b", {}, sample && Number.isFinite(sample.values[place]) ? format(sample.values[place]) : "–"))));
  }

  area.addEventListener("pointermove", (event) => {
    const box = area.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width) * width;
    cursor = Math.min(span, Math.max(0, (1 - (at - LEFT) / (width - LEFT - RIGHT)) * span));
    paint();
  });
  area.addEventListener("pointerleave", () => {
    cursor = null;
    paint();
  });
  element.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: span / 60, ArrowRight: -span / 60 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    cursor = Math.min(span, Math.max(0, (cursor ?? 0) + step));
    paint();
  });
  element.addEventListener("blur", () => {
    cursor = null;
    paint();
  });

  return {
    element,
    draw(names, samples, now) {
      shown = { names, samples, now };
      paint();
    },
  };
}

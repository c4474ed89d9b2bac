// Drawing on axes: scales, ticks, a tooltip, and charts that are drawn anew when their width changes.

/** Calls draw(width) now and whenever the width of the box changes; draw returns an SVG. */
function chart(label, draw) {
  const box = element("div", { class: "chart" });
  let width = 0;
  new ResizeObserver(() => {
    if (box.clientWidth === width || !box.clientWidth) return;
    width = box.clientWidth;
    const picture = draw(width);
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", label);
    box.replaceChildren(picture);
  }).observe(box);
  return box;
}

function picture(width, height, ...children) {
  return drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height }, ...children);
}

function linear(from, to, start, end) {
  const span = to - from || 1;
  return (value) => start + ((value - from) / span) * (end - start);
}

/** Logarithmic from 1 on: what is below 1 lies at 1. */
function logarithmic(from, to, start, end) {
  const log = (value) => Math.log10(Math.max(value, 1));
  const scale = linear(log(from), log(to), start, end);
  return (value) => scale(log(value));
}

/** Round numbers from at or below `from` to at or above `to`, about `count` of them. */
function roundTicks(from, to, count = 5) {
  const raw = (to - from || 1) / count,
    power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 2.5, 5, 10].find((one) => one * power >= raw * 0.999);
  const ticks = [];
  for (let k = Math.floor(from / step + 1e-9); ; k++) {
    ticks.push(Number((k * step).toPrecision(12)));
    if (k * step >= to - 1e-9 * step) return ticks;
  }
}

/** Powers of ten around a range of positive numbers, with 2 and 5 between them where the range is short. */
function logTicks(from, to) {
  const first = Math.floor(Math.log10(Math.max(from, 1))),
    last = Math.ceil(Math.log10(Math.max(to, 10)));
  const steps = last - first <= 1 ? [1, 2, 5] : [1];
  const ticks = [];
  for (let power = first; power < last; power++) ticks.push(...steps.map((step) => step * 10 ** power));
  return [...ticks, 10 ** last];
}

function words(x, y, text, properties = {}) {
  return drawn("text", { x, y, ...properties }, text);
}

/** Grid lines and tick labels of both axes with their names; ticks are [place, label]. */
function axes(frame, xTicks, yTicks, xName, yName) {
  const { left, right, top, bottom } = frame;
  return drawn(
    "g",
    { class: "axes" },
    yTicks.map(([y, label]) => [
      drawn("line", { x1: left, x2: right, y1: y, y2: y }),
      words(left - 6, y, label, { "text-anchor": "end", dy: "0.32em" }),
    ]),
    xTicks.map(([x, label]) => [
      drawn("line", { x1: x, x2: x, y1: bottom, y2: bottom + 4, class: "tick" }),
      words(x, bottom + 17, label, { "text-anchor": "middle" }),
    ]),
    drawn("line", { x1: left, x2: right, y1: bottom, y2: bottom, class: "base" }),
    words((left + right) / 2, bottom + 35, xName, { "text-anchor": "middle", class: "name" }),
    words(0, top - 12, yName, { class: "name" }),
  );
}

/** Something drawn that shows `text` while it is pointed at. */
function tipped(node, text) {
  node.addEventListener("pointerenter", (event) => showTip(event, text));
  node.addEventListener("pointerleave", hideTip);
  return node;
}

function showTip(event, text) {
  let tip = document.getElementById("tip");
  if (!tip) document.body.append((tip = element("div", { id: "tip", "aria-hidden": "true" })));
  tip.textContent = text;
  tip.hidden = false;
  const x = Math.min(event.clientX + 12, document.documentElement.clientWidth - tip.offsetWidth - 8);
  const above = event.clientY - tip.offsetHeight - 10;
  tip.style.left = `${Math.max(8, x)}px`;
  tip.style.top = `${above > 4 ? above : event.clientY + 16}px`;
}

function hideTip() {
  const tip = document.getElementById("tip");
  if (tip) tip.hidden = true;
}

/** Signs of series 0, 1, 2, ...: told apart without colour. */
const SIGNS = [
  (x, y) => `M${x - 4},${y}a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z`,
  (x, y) => `M${x - 4},${y - 4}h8v8h-8Z`,
  (x, y) => `M${x},${y - 5}L${x + 5},${y + 4}H${x - 5}Z`,
  (x, y) => `M${x},${y - 5.5}L${x + 5.5},${y}L${x},${y + 5.5}L${x - 5.5},${y}Z`,
  (x, y) => `M${x},${y + 5}L${x + 5},${y - 4}H${x - 5}Z`,
];

function sign(series, x, y) {
  return drawn("path", { d: SIGNS[series % SIGNS.length](x, y), class: `sign c${series % 5}` });
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");

/** Places for labels of height 14 that keep apart: pushed down in order of their wanted height. */
function apart(wanted, gap = 14) {
  const order = wanted.map((y, i) => [y, i]).sort((a, b) => a[0] - b[0]);
  const placed = [];
  let last = -Infinity;
  for (const [y, i] of order) placed[i] = last = Math.max(y, last + gap);
  return placed;
}

/**
 * Curves with a sign and a label at their end.
 * curves: {name, points: [[x, y]], faint: [[x, y]] or absent, band: [[x, low, high]] or absent, signs: on every point}
 * x, y: {name, ticks, log, label(value)}; x.to: where its axis ends, y.exact(value): for the tooltip
 */
function lineChart(curves, x, y) {
  return chart(`${y.name} against ${x.name}`, (width) => {
    const wide = width > 480,
      names = Math.max(...curves.map((curve) => curve.name.length));
    const room = curves.length > 1 && wide ? Math.min(190, 16 + 7 * names) : 14;
    const height = wide ? 300 : 260;
    const legend = room === 14 && curves.length > 1,
      above = legend ? 17 * Math.ceil(curves.length / 2) : 0;
    const frame = { left: 46, right: width - room, top: 30 + above, bottom: height + above - 46 };
    const xAt = (x.log ? logarithmic : linear)(x.ticks[0], x.to, frame.left + 4, frame.right - 6);
    const yAt = (y.log ? logarithmic : linear)(y.ticks[0], y.ticks.at(-1), frame.bottom, frame.top);
    const every = Math.ceil((x.ticks.length * 44) / (frame.right - frame.left));
    const shownX = x.ticks.filter((_, i) => (x.ticks.length - 1 - i) % every === 0);
    const at = ([px, py]) => [xAt(px), yAt(py)];
    const labels = apart(curves.map((curve) => yAt(curve.points.at(-1)[1])));
    return picture(
      width,
      height + above,
      axes(
        frame,
        shownX.map((t) => [xAt(t), x.label(t)]),
        y.ticks.map((t) => [yAt(t), y.label(t)]),
        x.name,
        y.name,
      ),
      curves.map((curve, i) =>
        drawn(
          "g",
          {},
          curve.band
            ? drawn("path", {
                class: `band c${i % 5}`,
                d: `${path([
                  ...curve.band.map(([px, low]) => at([px, low])),
                  ...curve.band.map(([px, , high]) => at([px, high])).reverse(),
                ])}Z`,
              })
            : null,
          curve.faint ? drawn("path", { class: `faint c${i % 5}`, d: path(curve.faint.map(at)) }) : null,
          drawn("path", { class: `line c${i % 5} d${i % 5}`, d: path(curve.points.map(at)) }),
          (curve.signs ? curve.points : [curve.points.at(-1)]).map((p) =>
            tipped(
              sign(i, ...at(p)),
              `${curve.name}\n${x.name}: ${x.label(p[0])}\n${y.name}: ${(y.exact || y.label)(p[1])}`,
            ),
          ),
          room > 14 ? words(frame.right + 6, labels[i], curve.name, { class: `label c${i % 5}`, dy: "0.32em" }) : null,
        ),
      ),
      legend ? legendAbove(curves, frame) : null,
    );
  });
}

/** The legend of a narrow chart: two columns above it. */
function legendAbove(curves, frame) {
  return drawn(
    "g",
    {},
    curves.map((curve, i) => {
      const x = i % 2 ? (frame.left + frame.right) / 2 : 6,
        y = 8 + 17 * Math.floor(i / 2);
      return [sign(i, x, y), words(x + 11, y, curve.name, { class: `label c${i % 5}`, dy: "0.32em" })];
    }),
  );
}

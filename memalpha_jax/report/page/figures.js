// The charts: accuracy by source, differences, memory, length of the stream, training.

const REFERENCE = "memalpha";

function valuesTable(caption, names, rows) {
  return element("details", {}, element("summary", {}, caption), scrolling(caption,
    element("tr", {}, names.map((name, i) => element("th", {scope: "col", class: i ? "number" : null}, name))),
    rows.map((row) => element("tr", {}, row.map((value, i) =>
      i ? element("td", {class: "number"}, value) : element("th", {scope: "row"}, value))))));
}

/** Horizontal bars or points with intervals, one row per method; entries: {method, value, low, high, tip}. */
function intervalRows(label, entries, from, to, asText, bars) {
  return chart(label, (width) => {
    const left = 8 + Math.min(120, 7 * Math.max(...entries.map((entry) => entry.method.length)));
    const right = width - 46, step = 22, top = 4, bottom = top + step * entries.length;
    const at = linear(from, to, left, right);
    const ticks = roundTicks(from, to, 4).filter((tick) => tick >= from && tick <= to);
    return picture(width, bottom + 22,
      drawn("g", {class: "axes"}, ticks.map((tick) => [
        drawn("line", {x1: at(tick), x2: at(tick), y1: top, y2: bottom, class: tick === 0 ? "base" : null}),
        words(at(tick), bottom + 15, asText(tick, true), {"text-anchor": "middle"})])),
      entries.map((entry, i) => intervalRow(entry, top + step * (i + 0.5), at, left, width, asText, bars)));
  });
}

function intervalRow(entry, y, at, left, width, asText, bars) {
  const own = entry.method === REFERENCE && bars ? "reference" : "other";
  const none = entry.value === null;
  return tipped(drawn("g", {class: `row ${own}`},
    drawn("rect", {x: 0, y: y - 11, width, height: 22, class: "touch"}),
    words(left - 8, y, entry.method, {"text-anchor": "end", dy: "0.32em"}),
    none ? null : [
      bars ? drawn("rect", {x: at(0), y: y - 6, width: Math.max(1, at(entry.value) - at(0)), height: 12, rx: 1.5, class: "bar"}) : null,
      whisker(`M${at(entry.low)},${y - 4}v8M${at(entry.low)},${y}H${at(entry.high)}M${at(entry.high)},${y - 4}v8`),
      bars ? null : drawn("circle", {cx: at(entry.value), cy: y, r: 4.5, class: entry.clear ? "clear" : "unclear"})],
    words(width, y, none ? "failed" : asText(entry.value), {"text-anchor": "end", dy: "0.32em",
      class: entry.best ? "best value" : "value"})), entry.tip);
}

/** An interval, with a rim that sets it off from what lies below it. */
function whisker(d) {
  return [drawn("path", {class: "rim", d}), drawn("path", {class: "whisker", d})];
}

function barsSection(data) {
  const sources = [...new Set(data.rows.map((row) => row.source))];
  const panels = sources.map((source) => {
    const rows = data.rows.filter((row) => row.source === source);
    const best = Math.max(...rows.map((row) => row.accuracy ?? -1));
    const entries = rows.map((row) => ({method: row.method, value: row.accuracy, low: row.ci_low, high: row.ci_high,
      best: row.accuracy === best, tip: `${row.method} on ${source}: ${percent(row.accuracy)} %\n95 % interval ` +
        `${percent(row.ci_low)} to ${percent(row.ci_high)}\n${plural(row.questions, "question")}, ${plural(row.episodes, "episode")}`}));
    return element("figure", {class: "panel"}, element("figcaption", {}, element("b", {}, source),
      element("small", {}, `${plural(rows[0].questions, "question")} \u00b7 ${plural(rows[0].episodes, "episode")} of ${short(rows[0].stream_tokens)} tokens`)),
    intervalRows(`Accuracy on ${source}`, entries, 0, 1, (value, tick) => tick ? (100 * value).toFixed(0) : percent(value), true));
  });
  return section("accuracy", "By source", "Accuracy by source", "Accuracy in %; lines across a bar are 95 % bootstrap intervals over " +
    "questions. Numbers in bold: the highest.", element("div", {class: "panels"}, panels));
}

function differencesSection(data) {
  if (!data.differences.length) return null;
  const usable = data.differences.filter((one) => one.difference !== null);
  const far = Math.max(0.05, ...usable.flatMap((one) => [Math.abs(one.ci_low), Math.abs(one.ci_high)]));
  const edge = roundTicks(0, far, 4).at(-1);
  const panels = [...new Set(data.differences.map((one) => one.source))].map((source) => {
    const entries = data.differences.filter((one) => one.source === source).map((one) => ({method: one.baseline,
      value: one.difference, low: one.ci_low, high: one.ci_high, clear: one.ci_low > 0 || one.ci_high < 0,
      tip: one.difference === null ? "no question answered by both" :
        `${one.method} minus ${one.baseline}: ${signed(one.difference)}\n95 % interval ${signed(one.ci_low)} to ${signed(one.ci_high)}`}));
    return element("figure", {class: "panel"}, element("figcaption", {}, element("b", {}, source)),
      intervalRows(`${REFERENCE} minus others on ${source}`, entries, -edge, edge,
        (value, tick) => tick && value === 0 ? "0" : tick ? signed(value).replace(/\.0$/, "") : signed(value), false));
  });
  return section("differences", "Differences", "Paired differences", `Accuracy of ${REFERENCE} minus that of each method, in points, on the ` +
    "questions that both answered: right of 0 it is ahead. Filled: the 95 % interval does not contain 0.",
  element("div", {class: "panels"}, panels));
}

function memorySection(data) {
  const place = element("div");
  function show(index) {
    const {source, points} = data.trade_offs[index];
    place.replaceChildren(scatter(points, source), valuesTable("The values", ["Method", "Memory tokens", "Accuracy in %", "On the front"],
      points.map((p) => [p.method, short(p.memory_tokens), percent(p.accuracy), p.front ? "yes" : "no"])));
  }
  if (!data.trade_offs.length) return null;
  const {node} = choice("Source", data.trade_offs.map((panel, i) => [i, panel.source]), show);
  show(0);
  return section("memory", "Memory", "Accuracy against memory", "Up and to the left is better. Filled points joined by the line are " +
    "the Pareto front: no other method is at least as accurate with as short a memory.", node, place);
}

/** Every method where its memory and its accuracy put it, with its name beside it. */
function scatter(points, source) {
  return chart(`Accuracy against memory tokens, ${source}`, (width) => {
    const height = Math.min(420, Math.max(300, width * 0.5));
    const frame = {left: 46, right: width - 14, top: 30, bottom: height - 46};
    const least = Math.min(...points.map((p) => p.memory_tokens));
    const xTicks = logTicks(least, Math.max(...points.map((p) => p.memory_tokens)));
    const top = Math.max(...points.map((p) => p.ci_high ?? p.accuracy));
    const yTicks = roundTicks(0, Math.min(1, top + 0.02), 5);
    const xAt = logarithmic(xTicks[0], xTicks.at(-1), frame.left + 8, frame.right - 8);
    const yAt = linear(0, yTicks.at(-1), frame.bottom, frame.top);
    const placed = points.map((p) => ({...p, x: xAt(p.memory_tokens), y: yAt(p.accuracy)}));
    const front = placed.filter((p) => p.front).sort((a, b) => a.x - b.x || a.y - b.y);
    const steps = front.flatMap((p, i) => i ? [[p.x, front[i - 1].y], [p.x, p.y]] : [[p.x, p.y]]);
    return picture(width, height,
      axes(frame, xTicks.map((t, i) => [xAt(t), i === 0 && least < 1 ? "\u22641" : short(t)]), yTicks.map((t) => [yAt(t), (100 * t).toFixed(0)]),
        "memory tokens (logarithmic)", "accuracy in %"),
      drawn("path", {class: "front", d: path(steps)}),
      placed.map((p) => p.ci_low === null ? null : whisker(`M${p.x},${yAt(p.ci_low)}V${yAt(p.ci_high)}`)),
      placed.map((p) => tipped(drawn("circle", {cx: p.x, cy: p.y, r: 6, class: p.front ? "point front" : "point"}),
        `${p.method}\n${percent(p.accuracy)} % with ${short(p.memory_tokens)} tokens`)),
      placeNames(placed, steps, frame).map((p) => words(p.at[0], p.at[1], p.method, {"text-anchor": p.at[2], dy: "0.32em",
        class: p.method === REFERENCE ? "label reference" : "label"})));
  });
}

/** Names beside their points, where they cover the least of the others and of the line. */
function placeNames(points, line, frame) {
  const boxes = points.map((p) => [p.x - 8, p.y - 8, p.x + 8, p.y + 8]);
  line.slice(1).forEach(([x, y], i) => boxes.push([Math.min(x, line[i][0]), Math.min(y, line[i][1]) - 1, Math.max(x, line[i][0]) + 1, Math.max(y, line[i][1]) + 1]));
  const covered = (a, b) => Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return points.map((p) => {
    const w = 7 * p.method.length;
    const options = [[p.x + 11, p.y, "start"], [p.x - 11, p.y, "end"], [p.x, p.y - 16, "middle"], [p.x, p.y + 17, "middle"],
      [p.x + 9, p.y - 13, "start"], [p.x + 9, p.y + 13, "start"], [p.x - 9, p.y - 13, "end"], [p.x - 9, p.y + 13, "end"]].map(([x, y, anchor]) => {
      const start = anchor === "start" ? x : anchor === "end" ? x - w : x - w / 2;
      const box = [start, y - 7, start + w, y + 7];
      const outside = Math.max(0, frame.left - start) + Math.max(0, start + w - frame.right);
      return {box, at: [x, y, anchor], cost: 100 * outside + boxes.reduce((sum, other) => sum + covered(box, other), 0)};
    });
    const best = options.reduce((a, b) => b.cost < a.cost - 1 ? b : a);
    boxes.push(best.box);
    return {...p, at: best.at};
  });
}

function lengthSection(data) {
  if (!data.lengths.length) return null;
  const xs = data.lengths.map((entry) => entry.length_tokens);
  const x = {name: "stream in tokens (logarithmic)", log: true, ticks: xs, label: short};
  const panel = (title, name, key, scale, exact) => {
    const points = data.lengths.filter((entry) => entry[key] !== null).map((entry) => [entry.length_tokens, scale * entry[key]]);
    const log = key === "memory_tokens", values = points.map((p) => p[1]);
    const ticks = key === "accuracy" ? roundTicks(0, 100) : log ? logTicks(Math.min(...values), Math.max(...values)) : roundTicks(0, Math.max(...values), 4);
    const band = key === "accuracy" ? data.lengths.filter((e) => e.ci_low !== null).map((e) => [e.length_tokens, 100 * e.ci_low, 100 * e.ci_high]) : null;
    return element("figure", {class: "panel"}, element("figcaption", {}, element("b", {}, title)),
      points.length ? lineChart([{name, points, band, signs: true}], x, {name, ticks, log, label: log ? short : String, exact}) : "nothing was measured");
  };
  return section("length", "Length", "Accuracy and cost against the length of the stream", "One policy on generated streams of growing length; the band is the 95 % interval.",
    element("div", {class: "panels wide"},
      panel("Accuracy", "accuracy in %", "accuracy", 100, (v) => v.toFixed(1)),
      panel("Memory", "memory tokens (logarithmic)", "memory_tokens", 1, short),
      panel("Time", "milliseconds per chunk", "seconds_per_chunk", 1000, short),
      panel("Bytes", "bytes of state per stored token", "bytes_per_token", 1, short)),
    valuesTable("The values", ["Tokens", "Accuracy in %", "95 % interval", "Memory tokens", "Seconds per chunk", "Bytes per token"],
      data.lengths.map((e) => [short(e.length_tokens), percent(e.accuracy), e.ci_low === null ? "\u2013" : `${percent(e.ci_low)} to ${percent(e.ci_high)}`,
        short(e.memory_tokens), e.seconds_per_chunk === null ? "\u2013" : e.seconds_per_chunk.toPrecision(3), short(e.bytes_per_token)])));
}

function trainingSection(data) {
  if (!data.training.length) return null;
  const panels = data.training.map(({title, unit, curves}) => {
    const share = unit === "accuracy", scale = share ? 100 : 1;
    const steps = curves.flatMap((curve) => curve.steps), values = curves.flatMap((curve) => curve.values);
    const x = {name: "step of training", ticks: roundTicks(Math.min(...steps), Math.max(...steps)), label: String};
    const yTicks = share ? roundTicks(0, 100) : roundTicks(Math.min(0, ...values), Math.max(...values));
    const zip = (curve, ys) => curve.steps.map((step, i) => [step, scale * ys[i]]);
    const drawnCurves = curves.map((curve) => share ? {name: curve.name, points: zip(curve, curve.values), signs: true} :
      {name: curve.name, points: zip(curve, curve.smooth), faint: zip(curve, curve.values)});
    return element("figure", {class: "panel"}, element("figcaption", {}, element("b", {}, title)),
      lineChart(drawnCurves, x, {name: share ? "accuracy in %" : "reward", ticks: yTicks, label: String, exact: (v) => v.toFixed(share ? 1 : 3)}));
  });
  return section("training", "Training", "Training of the policy", "Strong lines: moving averages; faint ones: every step.",
    element("div", {class: "panels wide"}, panels));
}

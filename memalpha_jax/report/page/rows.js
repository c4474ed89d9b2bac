// Charts with a row for each method: accuracy by source, and paired differences.

/** Horizontal bars or points with intervals, one row per method; entries: {method, value, low, high, tip}. */
function intervalRows(label, entries, from, to, asText, bars) {
  return chart(label, (width) => {
    const left = 8 + Math.min(120, 7 * Math.max(...entries.map((entry) => entry.method.length)));
    const right = width - 46,
      step = 22,
      top = 4,
      bottom = top + step * entries.length;
    const at = linear(from, to, left, right);
    const ticks = roundTicks(from, to, 4).filter((tick) => tick >= from && tick <= to);
    return picture(
      width,
      bottom + 22,
      drawn(
        "g",
        { class: "axes" },
        ticks.map((tick) => [
          drawn("line", { x1: at(tick), x2: at(tick), y1: top, y2: bottom, class: tick === 0 ? "base" : null }),
          words(at(tick), bottom + 15, asText(tick, true), { "text-anchor": "middle" }),
        ]),
      ),
      entries.map((entry, i) => intervalRow(entry, top + step * (i + 0.5), at, left, width, asText, bars)),
    );
  });
}

function intervalRow(entry, y, at, left, width, asText, bars) {
  const own = entry.method === REFERENCE && bars ? "reference" : "other";
  const none = entry.value === null;
  return tipped(
    drawn(
      "g",
      { class: `row ${own}` },
      drawn("rect", { x: 0, y: y - 11, width, height: 22, class: "touch" }),
      words(left - 8, y, entry.method, { "text-anchor": "end", dy: "0.32em" }),
      none
        ? null
        : [
            bars
              ? drawn("rect", {
                  x: at(0),
                  y: y - 6,
                  width: Math.max(1, at(entry.value) - at(0)),
                  height: 12,
                  rx: 1.5,
                  class: "bar",
                })
              : null,
            whisker(
              `M${at(entry.low)},${y - 4}v8M${at(entry.low)},${y}H${at(entry.high)}M${at(entry.high)},${y - 4}v8`,
            ),
            bars
              ? null
              : drawn("circle", { cx: at(entry.value), cy: y, r: 4.5, class: entry.clear ? "clear" : "unclear" }),
          ],
      words(width, y, none ? "failed" : asText(entry.value), {
        "text-anchor": "end",
        dy: "0.32em",
        class: entry.best ? "best value" : "value",
      }),
    ),
    entry.tip,
  );
}

/** An interval, with a rim that sets it off from what lies below it. */
function whisker(d) {
  return [drawn("path", { class: "rim", d }), drawn("path", { class: "whisker", d })];
}

function barsSection(data) {
  const sources = [...new Set(data.rows.map((row) => row.source))];
  const panels = sources.map((source) => {
    const rows = data.rows.filter((row) => row.source === source);
    const best = Math.max(...rows.map((row) => row.accuracy ?? -1));
    const entries = rows.map((row) => ({
      method: row.method,
      value: row.accuracy,
      low: row.ci_low,
      high: row.ci_high,
      best: row.accuracy === best,
      tip:
        `${row.method} on ${source}: ${percent(row.accuracy)} %\n95 % interval ` +
        `${percent(row.ci_low)} to ${percent(row.ci_high)}\n` +
        `${plural(row.questions, "question")}, ${plural(row.episodes, "episode")}`,
    }));
    return element(
      "figure",
      { class: "panel" },
      element(
        "figcaption",
        {},
        element("b", {}, source),
        element(
          "small",
          {},
          `${plural(rows[0].questions, "question")} \u00b7 ` +
            `${plural(rows[0].episodes, "episode")} of ${short(rows[0].stream_tokens)} tokens`,
        ),
      ),
      intervalRows(
        `Accuracy on ${source}`,
        entries,
        0,
        1,
        (value, tick) => (tick ? (100 * value).toFixed(0) : percent(value)),
        true,
      ),
    );
  });
  return section(
    "accuracy",
    "By source",
    "Accuracy by source",
    "Accuracy in %; lines across a bar are 95 % bootstrap intervals over questions. Numbers in bold: the highest.",
    element("div", { class: "panels" }, panels),
  );
}

function differencesSection(data) {
  if (!data.differences.length) return null;
  const usable = data.differences.filter((one) => one.difference !== null);
  const far = Math.max(0.05, ...usable.flatMap((one) => [Math.abs(one.ci_low), Math.abs(one.ci_high)]));
  const edge = roundTicks(0, far, 4).at(-1);
  const panels = [...new Set(data.differences.map((one) => one.source))].map((source) => {
    const entries = data.differences
      .filter((one) => one.source === source)
      .map((one) => ({
        method: one.baseline,
        value: one.difference,
        low: one.ci_low,
        high: one.ci_high,
        clear: one.ci_low > 0 || one.ci_high < 0,
        tip:
          one.difference === null
            ? "no question answered by both"
            : `${one.method} minus ${one.baseline}: ${signed(one.difference)}\n` +
              `95 % interval ${signed(one.ci_low)} to ${signed(one.ci_high)}`,
      }));
    return element(
      "figure",
      { class: "panel" },
      element("figcaption", {}, element("b", {}, source)),
      intervalRows(
        `${REFERENCE} minus others on ${source}`,
        entries,
        -edge,
        edge,
        (value, tick) => (tick && value === 0 ? "0" : tick ? signed(value).replace(/\.0$/, "") : signed(value)),
        false,
      ),
    );
  });
  return section(
    "differences",
    "Differences",
    "Paired differences",
    `Accuracy of ${REFERENCE} minus that of each method, in points, on the ` +
      "questions that both answered: right of 0 it is ahead. Filled: the 95 % interval does not contain 0.",
    element("div", { class: "panels" }, panels),
  );
}

// Curves: against the length of the stream, and of the training.

function lengthSection(data) {
  if (!data.lengths.length) return null;
  const xs = data.lengths.map((entry) => entry.length_tokens);
  const x = { name: "stream in tokens (logarithmic)", log: true, ticks: xs, to: xs.at(-1), label: short };
  const panel = (title, name, key, scale, exact) => {
    const points = data.lengths
      .filter((entry) => entry[key] !== null)
      .map((entry) => [entry.length_tokens, scale * entry[key]]);
    const log = key === "memory_tokens",
      values = points.map((p) => p[1]);
    const ticks =
      key === "accuracy"
        ? roundTicks(0, 100)
        : log
          ? logTicks(Math.min(...values), Math.max(...values))
          : roundTicks(0, Math.max(...values), 4);
    const band =
      key === "accuracy"
        ? data.lengths.filter((e) => e.ci_low !== null).map((e) => [e.length_tokens, 100 * e.ci_low, 100 * e.ci_high])
        : null;
    return element(
      "figure",
      { class: "panel" },
      element("figcaption", {}, element("b", {}, title)),
      points.length
        ? lineChart([{ name, points, band, signs: true }], x, { name, ticks, log, label: log ? short : String, exact })
        : "nothing was measured",
    );
  };
  return section(
    "length",
    "Length",
    "Accuracy and cost against the length of the stream",
    "One policy on generated streams of growing length; the band is the 95 % interval.",
    element(
      "div",
      { class: "panels wide" },
      panel("Accuracy", "accuracy in %", "accuracy", 100, (v) => v.toFixed(1)),
      panel("Memory", "memory tokens (logarithmic)", "memory_tokens", 1, short),
      panel("Time", "milliseconds per chunk", "seconds_per_chunk", 1000, short),
      panel("Bytes", "bytes of state per stored token", "bytes_per_token", 1, short),
    ),
    valuesTable(
      "The values",
      ["Tokens", "Accuracy in %", "95 % interval", "Memory tokens", "Seconds per chunk", "Bytes per token"],
      data.lengths.map((e) => [
        short(e.length_tokens),
        percent(e.accuracy),
        e.ci_low === null ? "\u2013" : `${percent(e.ci_low)} to ${percent(e.ci_high)}`,
        short(e.memory_tokens),
        e.seconds_per_chunk === null ? "\u2013" : e.seconds_per_chunk.toPrecision(3),
        short(e.bytes_per_token),
      ]),
    ),
  );
}

function trainingSection(data) {
  if (!data.training.length) return null;
  const panels = data.training.map(({ title, unit, curves }) => {
    const share = unit === "accuracy",
      scale = share ? 100 : 1;
    const steps = curves.flatMap((curve) => curve.steps),
      values = curves.flatMap((curve) => curve.values);
    const to = Math.max(...steps),
      ticks = roundTicks(Math.min(...steps), to).filter((tick) => tick <= to);
    const x = { name: "step of training", ticks, to, label: String };
    const yTicks = share ? roundTicks(0, 100) : roundTicks(Math.min(0, ...values), Math.max(...values));
    const zip = (curve, ys) => curve.steps.map((step, i) => [step, scale * ys[i]]);
    const drawnCurves = curves.map((curve) =>
      share
        ? { name: curve.name, points: zip(curve, curve.values), signs: true }
        : { name: curve.name, points: zip(curve, curve.smooth), faint: zip(curve, curve.values) },
    );
    return element(
      "figure",
      { class: "panel" },
      element("figcaption", {}, element("b", {}, title)),
      lineChart(drawnCurves, x, {
        name: share ? "accuracy in %" : "reward",
        ticks: yTicks,
        label: String,
        exact: (v) => v.toFixed(share ? 1 : 3),
      }),
    );
  });
  return section(
    "training",
    "Training",
    "Training of the policy",
    "Strong lines: moving averages; faint ones: every step.",
    element("div", { class: "panels wide" }, panels),
  );
}

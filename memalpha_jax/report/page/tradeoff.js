// Accuracy against memory.

function memorySection(data) {
  if (!data.trade_offs.length) return null;
  const place = element("div");
  function show(index) {
    const { source, points } = data.trade_offs[index];
    place.replaceChildren(
      scatter(points, source),
      valuesTable(
        "The values",
        ["Method", "Memory tokens", "Accuracy in %", "On the front"],
        points.map((p) => [p.method, short(p.memory_tokens), percent(p.accuracy), p.front ? "yes" : "no"]),
      ),
    );
  }
  const { node } = choice(
    "Source",
    data.trade_offs.map((panel, i) => [i, panel.source]),
    show,
  );
  show(0);
  return section(
    "memory",
    "Memory",
    "Accuracy against memory",
    "Up and to the left is better. Filled points joined by the line are " +
      "the Pareto front: no other method is at least as accurate with as short a memory.",
    node,
    place,
  );
}

/** Every method where its memory and its accuracy put it, with its name beside it. */
function scatter(points, source) {
  return chart(`Accuracy against memory tokens, ${source}`, (width) => {
    const height = Math.min(420, Math.max(300, width * 0.5));
    const frame = { left: 46, right: width - 14, top: 30, bottom: height - 46 };
    const least = Math.min(...points.map((p) => p.memory_tokens));
    const xTicks = logTicks(least, Math.max(...points.map((p) => p.memory_tokens)));
    const top = Math.max(...points.map((p) => p.ci_high ?? p.accuracy));
    const yTicks = roundTicks(0, Math.min(1, top + 0.02), 5);
    const xAt = logarithmic(xTicks[0], xTicks.at(-1), frame.left + 8, frame.right - 8);
    const yAt = linear(0, yTicks.at(-1), frame.bottom, frame.top);
    const placed = points.map((p) => ({ ...p, x: xAt(p.memory_tokens), y: yAt(p.accuracy) }));
    const front = placed.filter((p) => p.front).sort((a, b) => a.x - b.x || a.y - b.y);
    const steps = front.flatMap((p, i) =>
      i
        ? [
            [p.x, front[i - 1].y],
            [p.x, p.y],
          ]
        : [[p.x, p.y]],
    );
    return picture(
      width,
      height,
      axes(
        frame,
        xTicks.map((t, i) => [xAt(t), i === 0 && least < 1 ? "\u22641" : short(t)]),
        yTicks.map((t) => [yAt(t), (100 * t).toFixed(0)]),
        "memory tokens (logarithmic)",
        "accuracy in %",
      ),
      drawn("path", { class: "front", d: path(steps) }),
      placed.map((p) => (p.ci_low === null ? null : whisker(`M${p.x},${yAt(p.ci_low)}V${yAt(p.ci_high)}`))),
      placed.map((p) =>
        tipped(
          drawn("circle", { cx: p.x, cy: p.y, r: 6, class: p.front ? "point front" : "point" }),
          `${p.method}\n${percent(p.accuracy)} % with ${short(p.memory_tokens)} tokens`,
        ),
      ),
      placeNames(placed, steps, frame).map((p) =>
        words(p.at[0], p.at[1], p.method, {
          "text-anchor": p.at[2],
          dy: "0.32em",
          class: p.method === REFERENCE ? "label reference" : "label",
        }),
      ),
    );
  });
}

/** Names beside their points, where they cover the least of the others and of the line. */
function placeNames(points, line, frame) {
  const boxes = points.map((p) => [p.x - 8, p.y - 8, p.x + 8, p.y + 8]);
  line
    .slice(1)
    .forEach(([x, y], i) =>
      boxes.push([
        Math.min(x, line[i][0]),
        Math.min(y, line[i][1]) - 1,
        Math.max(x, line[i][0]) + 1,
        Math.max(y, line[i][1]) + 1,
      ]),
    );
  const covered = (a, b) =>
    Math.max(0, Math.min(a[2], b[2]) - Math.max(a[0], b[0])) * Math.max(0, Math.min(a[3], b[3]) - Math.max(a[1], b[1]));
  return points.map((p) => {
    const w = 7 * p.method.length;
    const options = [
      [p.x + 11, p.y, "start"],
      [p.x - 11, p.y, "end"],
      [p.x, p.y - 16, "middle"],
      [p.x, p.y + 17, "middle"],
      [p.x + 9, p.y - 13, "start"],
      [p.x + 9, p.y + 13, "start"],
      [p.x - 9, p.y - 13, "end"],
      [p.x - 9, p.y + 13, "end"],
    ].map(([x, y, anchor]) => {
      const start = anchor === "start" ? x : anchor === "end" ? x - w : x - w / 2;
      const box = [start, y - 7, start + w, y + 7];
      const outside = Math.max(0, frame.left - start) + Math.max(0, start + w - frame.right);
      return {
        box,
        at: [x, y, anchor],
        cost: 100 * outside + boxes.reduce((sum, other) => sum + covered(box, other), 0),
      };
    });
    const best = options.reduce((a, b) => (b.cost < a.cost - 1 ? b : a));
    boxes.push(best.box);
    return { ...p, at: best.at };
  });
}

// Stepping through what a method did with an episode.

const SIGN_NAMES = { "+": "inserted", "~": "changed", "-": "deleted", "=": "unchanged" };
const SHOWN_SIGNS = { "+": "+", "~": "~", "-": "\u2212", "=": "" };
const CLIPPED = 1500;

async function unpack(number) {
  const bytes = Uint8Array.from(atob(document.getElementById(`trace-${number}`).textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** Text of which a long rest is shown when asked for; `words` in it are marked. */
function clipped(text, words = []) {
  const whole = () => element("div", { class: "quoted", dir: "auto" }, marked(text, words));
  if (text.length <= CLIPPED) return whole();
  const node = element("div", { class: "quoted", dir: "auto" }, marked(text.slice(0, CLIPPED), words));
  node.append(
    button(`\u2026 show all ${grouped(text.length)} characters`, () => node.replaceWith(whole()), { class: "more" }),
  );
  return node;
}

function marked(text, words) {
  const wanted = words.filter(Boolean).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  if (!wanted.length) return [visible(text)];
  return text
    .split(new RegExp(`(${wanted.join("|")})`, "i"))
    .map((piece, i) => (i % 2 ? element("mark", {}, visible(piece)) : visible(piece)));
}

/** The viewer of one method's trace; `go(t)` shows chunk t, counted from 1. */
function traceViewer(block, method) {
  const own = block.methods[method],
    steps = own.steps,
    T = block.chunks.length;
  const past = history(steps);
  const memory = memoryPanel(block.texts, (t, name) => go(t, name));
  const heading = element("h3", { id: "step", tabindex: "-1", "aria-live": "polite" });
  const slider = element("input", {
    type: "range",
    min: 1,
    max: T,
    value: 1,
    "aria-label": "chunk",
    oninput: () => go(Number(slider.value)),
  });
  const back = button("\u2190", () => go(now - 1), { "aria-label": "previous chunk" });
  const on = button("\u2192", () => go(now + 1), { "aria-label": "next chunk" });
  const chunk = element("div", { class: "box", tabindex: "0", role: "region", "aria-label": "text of the chunk" });
  const did = element("div");
  const strip = steps.length ? activity(steps, (t) => go(t)) : null;
  let now = 1;
  function go(t, name = null) {
    now = Math.min(T, Math.max(1, t));
    heading.textContent = `Chunk ${now} of ${T}`;
    slider.value = now;
    back.disabled = now === 1;
    on.disabled = now === T;
    chunk.replaceChildren(quoted(block.texts[block.chunks[now - 1]]));
    chunk.scrollTop = 0;
    if (!steps.length) return;
    strip.mark(now);
    did.replaceChildren(...whatHappened(block.texts, steps[now - 1]));
    memory.show(past.after(now - 1), past.after(now), steps[now - 1][2], name);
  }
  const node = element(
    "div",
    { class: "viewer" },
    element("div", { class: "stepper" }, back, slider, on, heading),
    strip && strip.node,
    element(
      "div",
      { class: "columns" },
      element("div", {}, element("h4", {}, "The chunk"), chunk, did),
      steps.length
        ? memory.node
        : element("p", { class: "warning" }, "This stream is too long to have been recorded chunk by chunk."),
    ),
  );
  go(1);
  return {
    node,
    go,
    heading,
    by: (n) => go(now + n),
    writer: (kind, id) => (past.last.get(`${kind}/${id}`) || {}).chunk,
  };
}

/** A bar per chunk: what was inserted and changed above the line, what was deleted below. */
function activity(steps, go) {
  const counts = steps.map(([, , changes]) =>
    ["insert", "update", "delete"].map((name) => changes.filter((c) => c[0] === name).length),
  );
  const up = Math.max(1, ...counts.map(([a, b]) => a + b)),
    down = Math.max(...counts.map((c) => c[2])),
    T = steps.length;
  const W = 1000,
    H = 40,
    unit = H / (up + down),
    zero = up * unit,
    slot = W / T,
    wide = Math.min(0.85 * slot, 16);
  const bar = (t, from, to) =>
    to > from
      ? `M${(t + 0.5) * slot - wide / 2},${zero - from * unit}V${zero - to * unit}h${wide}V${zero - from * unit}Z`
      : "";
  const cursor = drawn("rect", { class: "cursor", y: 0, height: H, width: Math.max(3, slot) });
  const node = drawn(
    "svg",
    {
      class: "activity",
      viewBox: `0 0 ${W} ${H}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
      onclick: (event) => go(1 + Math.floor((event.offsetX / node.clientWidth) * T)),
    },
    cursor,
    drawn("path", { class: "plus", d: counts.map(([a], t) => bar(t, 0, a)).join("") }),
    drawn("path", { class: "changed", d: counts.map(([a, b], t) => bar(t, a, a + b)).join("") }),
    drawn("path", { class: "minus", d: counts.map(([, , c], t) => bar(t, -c, 0)).join("") }),
  );
  const legend = element(
    "p",
    { class: "note legend" },
    "A bar for each chunk: ",
    [
      ["plus", "inserted"],
      ["changed", "changed"],
      ["minus", "deleted, below"],
    ].map(([kind, label]) => [element("span", {}, element("i", { class: `key ${kind}` }), label), " "]),
    "The arrow keys step.",
  );
  return { node: element("div", {}, node, legend), mark: (t) => cursor.setAttribute("x", (t - 1) * slot) };
}

/** The replies of the model, and each operation with what became of it. */
function whatHappened(texts, [replies, operations]) {
  const said = replies.length
    ? replies.map((reply, i) =>
        element(
          "div",
          {},
          replies.length > 1 ? element("small", {}, `${i + 1} of ${replies.length}`) : null,
          texts[reply] ? clipped(texts[reply]) : element("p", { class: "note" }, "(empty)"),
        ),
      )
    : [element("p", { class: "note" }, "No model was asked.")];
  const done = operations.length
    ? element(
        "ol",
        { class: "rows operations" },
        operations.map(([name, kind, id, text, status]) => {
          const ok = status === "ok";
          return element(
            "li",
            { class: ok ? "row ok" : "row bad" },
            element("span", { class: "sign", "aria-hidden": "true" }, ok ? "\u2713" : "\u2717"),
            element(
              "div",
              {},
              element(
                "p",
                { class: "meta" },
                element("b", {}, visible(name)),
                " ",
                badge(kind, id),
                ok ? " ok" : element("b", { class: "bad" }, ` ${visible(status)}`),
              ),
              texts[text] ? clipped(texts[text]) : null,
            ),
          );
        }),
      )
    : element("p", { class: "note" }, "None.");
  return [
    element("h4", {}, replies.length > 1 ? "The replies" : "The reply"),
    ...said,
    element("h4", {}, "Operations"),
    done,
  ];
}

function badge(kind, id) {
  return kind || id
    ? element("span", { class: "badge" }, visible(kind === id ? kind : [kind, id].filter(Boolean).join(" ")))
    : null;
}

/** The memory around one chunk, as changes, as a whole with the changes in it, before, or after. */
function memoryPanel(texts, go) {
  const counts = element("p", { class: "counts" });
  const search = element("input", {
    type: "search",
    placeholder: "kind, id or words",
    "aria-label": "only entries with",
    oninput: () => render(),
  });
  let view = "changes",
    shown = { before: new Map(), after: new Map(), changes: [], name: null };
  const pages = pager("entries of the memory", 50, (row) => memoryRow(row, texts, go, shown.name));
  function rows() {
    if (view === "before" || view === "after") return [...shown[view].values()].map((entry) => ({ sign: "=", entry }));
    const all = changedRows(shown.before, shown.changes);
    return view === "all" ? all : all.filter((row) => row.sign !== "=");
  }
  function render() {
    const wanted = search.value.toLowerCase();
    const found = rows().filter(
      ({ entry }) => !wanted || `${entry.kind} ${entry.id}\n${texts[entry.text]}`.toLowerCase().includes(wanted),
    );
    const at = shown.name ? found.findIndex(({ entry }) => `${entry.kind}/${entry.id}` === shown.name) : 0;
    pages.show(found, Math.max(0, at));
    empty.hidden = found.length > 0;
    empty.textContent = wanted
      ? "Nothing here has these words."
      : view === "changes"
        ? "This chunk changed nothing."
        : "The memory is empty.";
  }
  const empty = element("p", { class: "note" });
  const views = segmented(
    "Which part of the memory",
    [
      ["changes", "Changes"],
      ["all", "All"],
      ["before", "Before"],
      ["after", "After"],
    ],
    view,
    (chosen) => {
      view = chosen;
      shown.name = null;
      render();
    },
  );
  return {
    node: element(
      "div",
      { class: "memory" },
      element("h4", {}, "The memory"),
      counts,
      element("div", { class: "tools" }, views, search),
      empty,
      pages.node,
    ),
    show(before, after, changes, name) {
      shown = { before, after, changes, name };
      const n = (kind) => changes.filter((change) => change[0] === kind).length;
      counts.replaceChildren(
        `${grouped(before.size)} \u2192 ${plural(after.size, "entry", "entries")}: `,
        element("b", { class: "plus" }, `+${n("insert")}`),
        " ",
        element("b", { class: "changed" }, `~${n("update")}`),
        " ",
        element("b", { class: "minus" }, `\u2212${n("delete")}`),
      );
      render();
    },
  };
}

function memoryRow({ sign, entry, before }, texts, go, name) {
  const key = `${entry.kind}/${entry.id}`;
  const kind = { "+": "plus", "~": "changed", "-": "minus", "=": "same" }[sign];
  return element(
    "li",
    { class: `row ${kind}${key === name ? " found" : ""}`, "data-sign": sign, "data-name": key },
    element("span", { class: "sign", role: "img", "aria-label": SIGN_NAMES[sign] }, SHOWN_SIGNS[sign]),
    element(
      "div",
      {},
      element(
        "p",
        { class: "meta" },
        badge(entry.kind, entry.id),
        entry.chunk === undefined || sign === "~"
          ? null
          : button(`chunk ${entry.chunk + 1}`, () => go(entry.chunk + 1, key), {
              class: "jump",
              title: "the chunk that last wrote it",
            }),
      ),
      sign === "~" ? diffText(texts[before], texts[entry.text]) : clipped(texts[entry.text]),
    ),
  );
}

// The results, ours and the published ones.

const REFERENCE = "memalpha";

const MEASURES = {
  accuracy: ["Accuracy", "Accuracy in %, with its 95 % interval over questions. Bold: the highest of a column."],
  memory_tokens: ["Memory", "Length of the final memory in tokens, mean over episodes."],
  tokens: ["Tokens", "Tokens that the method's language model read and wrote, per chunk."],
  write_calls: ["Writes", "Calls of the method's language model, per chunk."],
  read_calls: ["Reads", "Calls of the method's language model for a question, before the reader is asked."],
};

function cellsOf(rows) {
  return new Map(rows.map((row) => [`${row.method}\n${row.source}`, row]));
}

/** A table that scrolls sideways in a box of its own where the window is narrow; its edge fades while there is more. */
function scrolling(label, head, body) {
  const box = element(
    "div",
    { class: "scroll", tabindex: "0", role: "region", "aria-label": label, onscroll: fade },
    element("table", {}, element("thead", {}, head), element("tbody", {}, body)),
  );
  function fade() {
    box.classList.toggle("cut", box.scrollLeft + box.clientWidth < box.scrollWidth - 2);
  }
  new ResizeObserver(fade).observe(box);
  return box;
}

/** The values of a chart, folded away below it. */
function valuesTable(caption, names, rows) {
  return element(
    "details",
    {},
    element("summary", {}, caption),
    scrolling(
      caption,
      element(
        "tr",
        {},
        names.map((name, i) => element("th", { scope: "col", class: i ? "number" : null }, name)),
      ),
      rows.map((row) =>
        element(
          "tr",
          {},
          row.map((value, i) =>
            i ? element("td", { class: "number" }, value) : element("th", { scope: "row" }, value),
          ),
        ),
      ),
    ),
  );
}

function resultsTable(data, measure) {
  const sources = [...new Set(data.rows.map((row) => row.source))];
  const methods = [...new Set(data.rows.map((row) => row.method))];
  const cells = cellsOf(data.rows);
  const best = new Map(
    sources.map((source) => [
      source,
      Math.max(...data.rows.filter((row) => row.source === source && row.accuracy !== null).map((row) => row.accuracy)),
    ]),
  );
  const averages = new Map(data.averages.map((entry) => [entry.method, entry]));
  const bestAverage = Math.max(...data.averages.map((entry) => entry.accuracy ?? -1));
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "Method"),
    sources.map((source) => {
      const row = data.rows.find((one) => one.source === source);
      return element(
        "th",
        { scope: "col", class: "number" },
        source,
        element("small", {}, plural(row.questions, "question")),
      );
    }),
    element("th", { scope: "col", class: "number average" }, "Average", element("small", {}, "plain mean")),
  );
  const body = methods.map((method) =>
    element(
      "tr",
      { class: method === REFERENCE ? "reference" : null },
      element("th", { scope: "row" }, method),
      sources.map((source) => resultCell(cells.get(`${method}\n${source}`), measure, best.get(source))),
      averageCell(data, method, measure, averages.get(method), bestAverage),
    ),
  );
  return scrolling(`${MEASURES[measure][0]} by method and source`, head, body);
}

function resultCell(row, measure, best) {
  if (measure !== "accuracy") return element("td", { class: "number" }, short(row[measure]));
  if (row.accuracy === null) return element("td", { class: "number" }, "failed");
  return element(
    "td",
    { class: `number${row.accuracy === best ? " best" : ""}` },
    percent(row.accuracy),
    element("small", {}, `${percent(row.ci_low)}\u2013${percent(row.ci_high)}`),
    row.failed ? element("small", { class: "bad" }, `! ${row.failed} failed`) : null,
  );
}

function averageCell(data, method, measure, average, best) {
  const own = data.rows.filter((row) => row.method === method);
  if (measure !== "accuracy") {
    return element(
      "td",
      { class: "number average" },
      short(own.reduce((sum, row) => sum + row[measure], 0) / own.length),
    );
  }
  return element(
    "td",
    { class: `number average${average.accuracy === best ? " best" : ""}` },
    percent(average.accuracy),
    average.cells < own.length ? element("small", { class: "bad" }, `! of ${average.cells} cells`) : null,
  );
}

function resultsSection(data) {
  const place = element("div"),
    note = element("p", { class: "note", "aria-live": "polite" });
  function show(measure) {
    note.replaceChildren(MEASURES[measure][1]);
    place.replaceChildren(resultsTable(data, measure));
  }
  show("accuracy");
  const names = Object.entries(MEASURES).map(([key, [label]]) => [key, label]);
  return section(
    "results",
    "Results",
    "Results",
    null,
    segmented("What the table shows", names, "accuracy", show),
    note,
    place,
    element(
      "details",
      {},
      element("summary", {}, "What the methods are"),
      element(
        "dl",
        { class: "about" },
        Object.entries(data.about).map(([name, about]) => [element("dt", {}, name), element("dd", {}, about)]),
      ),
    ),
  );
}

const BESIDE =
  "Filled rows are ours, the others are printed in arXiv 2509.25911. \u2020 marks a cell of ours: the " +
  "benchmark and its scoring rule are the same, the episodes are not, and the published answers were given by " +
  "Qwen3-32B. Printed averages are not always the mean of the printed cells, so both are here; the last column is " +
  "the mean over the columns that both have, the only average that can be set side by side.";

function publishedTable(table, measure) {
  const memory = measure === "memory";
  const shown = (value) => (memory ? (value === null ? "\u2013" : `${short(1000 * value)}`) : percent(value));
  const extra = memory ? ["as printed", "plain mean"] : ["as printed", "plain mean", `shared ${table.shared.length}`];
  const head = element(
    "tr",
    {},
    element("th", { scope: "col" }, "Method"),
    table.columns.map((name, i) =>
      element("th", { scope: "col", class: `number${table.shared.includes(i) ? "" : " away"}` }, name),
    ),
    extra.map((name) => element("th", { scope: "col", class: "number average" }, "Avg.", element("small", {}, name))),
  );
  const body = table.rows.map((row) => {
    const averages = memory
      ? [row.printed_memory, row.mean_memory]
      : [row.printed_accuracy, row.mean_accuracy, row.shared_mean];
    return element(
      "tr",
      { class: row.published ? "published" : "ours", "data-method": row.method },
      element(
        "th",
        { scope: "row" },
        row.name,
        element("small", {}, row.published ? `published, ${row.model}` : "ours"),
      ),
      row[measure].map((value) =>
        element(
          "td",
          { class: "number" },
          shown(value),
          !row.published && value !== null ? element("sup", { title: "same rule, other episodes" }, "\u2020") : null,
        ),
      ),
      averages.map((value) => element("td", { class: "number average" }, shown(value))),
    );
  });
  return [element("h3", {}, table.title), scrolling(table.title, head, body)];
}

function publishedSection(data) {
  if (!data.published.length) {
    return section(
      "published",
      "Published",
      "Beside the published table",
      "None of these sources is a column of the published tables.",
    );
  }
  const place = element("div");
  const show = (measure) => place.replaceChildren(...data.published.flatMap((table) => publishedTable(table, measure)));
  show("accuracy");
  const options = [
    ["accuracy", "Accuracy in %"],
    ["memory", "Memory in tokens"],
  ];
  return section(
    "published",
    "Published",
    "Beside the published table",
    BESIDE,
    segmented("What the tables show", options, "accuracy", show),
    place,
  );
}

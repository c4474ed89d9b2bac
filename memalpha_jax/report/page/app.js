// The page: its head, its sections, and the choice of a trace.

function tracesSection(data) {
  const here = data.traces.filter((trace) => trace.block !== null);
  const note = "What a method did with an episode, chunk by chunk, and what came of it.";
  if (!here.length)
    return section(
      "traces",
      "Traces",
      "Traces",
      note,
      element("p", {}, "No trace is in this page."),
      elsewhere(data.traces),
    );
  const names = (key, among) => [...new Set(among.map((trace) => trace[key]))];
  const place = element("div", { id: "trace" }),
    others = element("div");
  const wanted = { method: names("method", here)[0], source: "", episode: "" };
  const selects = element("div", { class: "fields" });
  let viewer = null,
    asked = 0;
  function fill() {
    let among = here;
    const made = ["source", "episode", "method"].map((key) => {
      const known = names(key, among);
      if (!known.includes(wanted[key])) wanted[key] = known[0];
      const { node, select } = choice(
        key[0].toUpperCase() + key.slice(1),
        known.map((name) => [name, visible(name)]),
        (value) => {
          wanted[key] = value;
          fill();
        },
      );
      select.value = wanted[key];
      select.dataset.key = key;
      among = among.filter((trace) => trace[key] === wanted[key]);
      return node;
    });
    const focused = document.activeElement && document.activeElement.dataset.key;
    selects.replaceChildren(...made);
    if (focused) selects.querySelector(`[data-key=${focused}]`).focus();
    others.replaceChildren(
      elsewhere(
        data.traces.filter(
          (trace) => trace.method === wanted.method && trace.source === wanted.source && trace.block === null,
        ),
      ),
    );
    return open(among[0]);
  }
  async function open(trace) {
    const mine = ++asked;
    place.setAttribute("aria-busy", "true");
    let shown;
    try {
      const block = await unpack(trace.block);
      if (mine !== asked) return;
      viewer = traceViewer(block, trace.method);
      shown = [viewer.node, questionsPanel(block, trace.method, viewer)];
    } catch (error) {
      shown = [
        element(
          "p",
          { class: "warning" },
          `This trace cannot be shown: ${error.message}. Browsers from 2023 on can decompress it; ` +
            `the same is in ${trace.file}.`,
        ),
      ];
    }
    place.replaceChildren(...shown);
    place.setAttribute("aria-busy", "false");
  }
  document.addEventListener("keydown", (event) => {
    if (
      event.altKey ||
      event.ctrlKey ||
      event.metaKey ||
      !viewer ||
      event.target.closest("input, select, textarea, .scroll")
    )
      return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    viewer.by(by);
    event.preventDefault();
  });
  fill();
  return section("traces", "Traces", "Traces", note, selects, place, others);
}

/** The episodes that are not in this page, with the files they lie in. */
function elsewhere(traces) {
  if (!traces.length) return null;
  const pages = pager("episodes that are not in this page", 50, (trace) =>
    element(
      "li",
      { class: "row" },
      element(
        "div",
        {},
        `${trace.method}, ${trace.source}: `,
        visible(trace.episode),
        " ",
        element("code", {}, trace.file),
      ),
    ),
  );
  pages.show(traces);
  return element(
    "details",
    {},
    element("summary", {}, `${plural(traces.length, "more episode")} of this method and source, not in this page`),
    pages.node,
  );
}

function head(data) {
  const count = (key) => new Set(data.rows.map((row) => row[key])).size;
  const perSource = new Map(data.rows.map((row) => [row.source, row]));
  const sum = (key) => [...perSource.values()].reduce((total, row) => total + row[key], 0);
  document.getElementById("summary").textContent = [
    plural(count("method"), "method"),
    plural(count("source"), "source"),
    plural(sum("episodes"), "episode"),
    plural(sum("questions"), "question"),
  ].join(" \u00b7 ");
  document
    .getElementById("facts")
    .append(
      ...Object.entries(data.facts).map(([name, value]) =>
        element("div", {}, element("dt", {}, name), element("dd", {}, value)),
      ),
    );
  const failed = data.rows.reduce((total, row) => total + row.failed, 0),
    warning = document.getElementById("failed");
  warning.hidden = !failed;
  warning.textContent = `! ${plural(failed, "answer")} failed for good, left out of the means.`;
}

const everything = JSON.parse(document.getElementById("data").textContent);
head(everything);
document
  .getElementById("main")
  .append(
    ...[
      resultsSection,
      publishedSection,
      barsSection,
      differencesSection,
      memorySection,
      lengthSection,
      trainingSection,
      tracesSection,
    ]
      .map((make) => make(everything))
      .filter(Boolean),
  );

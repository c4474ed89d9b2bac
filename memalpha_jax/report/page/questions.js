// The questions of a trace: what was retrieved, what was answered, what was right.

function scoreSign(score) {
  if (score === null) return { sign: "!", name: "failed", kind: "failed" };
  if (score >= 1) return { sign: "\u2713", name: "right", kind: "right" };
  return score <= 0
    ? { sign: "\u2717", name: "wrong", kind: "wrong" }
    : { sign: "\u25d0", name: "partly right", kind: "partly" };
}

/** The questions of one method; `jump(chunk, name)` shows the chunk that wrote an entry, counted from 0. */
function questionsPanel(block, method, viewer) {
  const answers = block.methods[method].answers;
  const all = block.questions.map((question, i) => ({ i, question, answer: answers[i], ...scoreSign(answers[i][1]) }));
  const list = element("ol", { class: "questions" }),
    detail = element("div", { class: "detail", "aria-live": "polite" });
  const jump = (chunk, name) => {
    viewer.go(chunk + 1, name);
    viewer.heading.scrollIntoView({ block: "start" });
    viewer.heading.focus({ preventScroll: true });
  };
  function choose(one, node) {
    for (const other of list.querySelectorAll("button")) other.setAttribute("aria-current", String(other === node));
    detail.replaceChildren(...questionDetail(block, one, viewer, jump));
  }
  function show(kind) {
    const chosen = all.filter((one) => kind === "all" || (kind === "right") === (one.kind === "right"));
    const buttons = chosen.map((one) =>
      element(
        "button",
        { type: "button", class: one.kind },
        element("span", { class: "sign", role: "img", "aria-label": one.name }, one.sign),
        quoted(block.texts[one.question[0]], "span"),
      ),
    );
    buttons.forEach((node, k) => node.addEventListener("click", () => choose(chosen[k], node)));
    list.replaceChildren(...buttons.map((node) => element("li", {}, node)));
    if (chosen.length) choose(chosen[0], buttons[0]);
    else detail.replaceChildren(element("p", { class: "note" }, "There is none."));
  }
  const scored = all.filter((one) => one.answer[1] !== null);
  const mean = scored.length ? percent(scored.reduce((sum, one) => sum + one.answer[1], 0) / scored.length) : "\u2013";
  show("all");
  return element(
    "div",
    { class: "asked" },
    element("h3", {}, `${plural(all.length, "question")}, mean score ${mean} %`),
    segmented(
      "Which questions",
      [
        ["all", "All"],
        ["wrong", "Not right"],
        ["right", "Right"],
      ],
      "all",
      show,
    ),
    element("div", { class: "columns" }, list, detail),
  );
}

function questionDetail(block, one, viewer, jump) {
  const [text, kind, golds, evidence] = one.question,
    [answer, score, calls, passages] = one.answer;
  const chunkButton = (chunk, name = null) => button(`chunk ${chunk + 1}`, () => jump(chunk, name), { class: "jump" });
  const retrieved = pager("what was retrieved", 20, (passage, rank) =>
    passageRow(block.texts, passage, rank, viewer, chunkButton, golds.map(String)),
  );
  retrieved.show(passages);
  const pair = (name, ...value) => [element("dt", {}, name), element("dd", {}, ...value)];
  return [
    quoted(block.texts[text], "h4"),
    element(
      "dl",
      { class: "pairs" },
      pair(
        "Score",
        element("b", { class: one.kind }, `${one.sign} ${one.name}`),
        score === null ? ": left out of the mean" : ` (${short(score)})`,
      ),
      pair(
        "Answer",
        answer === null
          ? element("span", { class: "soft" }, "none: it failed for good")
          : answer
            ? clipped(answer)
            : element("span", { class: "soft" }, "(empty)"),
      ),
      pair(
        golds.length > 1 ? "Golds" : "Gold",
        golds.map((gold) => quoted(String(gold))),
      ),
      pair("Kind", visible(kind), calls ? `, ${plural(calls, "call")} of a model to find the context` : ""),
      evidence.length
        ? pair(
            "Evidence",
            evidence.flatMap((chunk) => [chunkButton(chunk), " "]),
          )
        : null,
    ),
    element("h4", {}, `Retrieved: ${plural(passages.length, "passage")}, gold marked`),
    passages.length ? retrieved.node : element("p", { class: "note" }, "Nothing was handed to the reader."),
  ];
}

function passageRow(texts, [text, kind, id, score, chunk], rank, viewer, chunkButton, golds) {
  const writer = viewer.writer(kind, id) ?? (chunk !== null && chunk >= 0 ? chunk : undefined);
  return element(
    "li",
    { class: "row" },
    element("span", { class: "sign" }, String(rank + 1)),
    element(
      "div",
      {},
      element(
        "p",
        { class: "meta" },
        badge(kind, id),
        score === null ? null : ` score ${short(score)} `,
        writer === undefined ? null : chunkButton(writer, `${kind}/${id}`),
      ),
      clipped(texts[text], golds),
    ),
  );
}

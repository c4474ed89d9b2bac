// What changed between two texts, word by word.

const LARGEST_TABLE = 4e6,
  KEPT_AROUND = 160;

/** Runs of [sign, text], sign one of "=", "-", "+": the old text is all but "+", the new one all but "-". */
function wordDiff(before, after) {
  const split = (text) => text.match(/\s+|[^\s]+/g) || [];
  const a = split(before),
    b = split(after);
  let start = 0,
    end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < a.length - start && end < b.length - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const runs = [];
  add(runs, "=", a.slice(0, start));
  middle(runs, a.slice(start, a.length - end), b.slice(start, b.length - end));
  add(runs, "=", a.slice(a.length - end));
  return runs;
}

function add(runs, sign, pieces) {
  if (!pieces.length) return;
  const text = pieces.join("");
  if (runs.length && runs.at(-1)[0] === sign) runs.at(-1)[1] += text;
  else runs.push([sign, text]);
}

/** The longest common subsequence; texts too long for its table are set side by side as a whole. */
function middle(runs, a, b) {
  const width = b.length + 1;
  if ((a.length + 1) * width > LARGEST_TABLE) {
    add(runs, "-", a);
    add(runs, "+", b);
    return;
  }
  const common = new Uint16Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      common[i * width + j] =
        a[i] === b[j]
          ? common[(i + 1) * width + j + 1] + 1
          : Math.max(common[(i + 1) * width + j], common[i * width + j + 1]);
    }
  }
  let i = 0,
    j = 0;
  while (i < a.length && j < b.length) {
    if (a[i] === b[j]) {
      add(runs, "=", [a[i++]]);
      j++;
    } else if (common[(i + 1) * width + j] >= common[i * width + j + 1]) add(runs, "-", [a[i++]]);
    else add(runs, "+", [b[j++]]);
  }
  add(runs, "-", a.slice(i));
  add(runs, "+", b.slice(j));
}

/** Both texts in one, with what went struck out and what came underlined; long stretches of the same are left out. */
function diffText(before, after) {
  return element(
    "div",
    { class: "quoted", dir: "auto" },
    wordDiff(before, after).flatMap(([sign, text]) =>
      sign === "=" ? unchanged(text) : [element(sign === "-" ? "del" : "ins", {}, visible(text))],
    ),
  );
}

function unchanged(text) {
  if (text.length <= 3 * KEPT_AROUND) return [visible(text)];
  const left = text.length - 2 * KEPT_AROUND;
  return [
    visible(text.slice(0, KEPT_AROUND)),
    element("span", { class: "gap" }, ` [\u2026 ${grouped(left)} unchanged characters \u2026] `),
    visible(text.slice(-KEPT_AROUND)),
  ];
}

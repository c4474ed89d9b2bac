"use strict";
// Making elements. Text gets into the page through text nodes alone, whatever it looks like.

const SVG = "http://www.w3.org/2000/svg";

/** An element; `properties` named on* are listeners, all others attributes, left out where they are null or false. */
function element(tag, properties, ...children) {
  return filled(document.createElement(tag), properties, children);
}

function drawn(tag, properties, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(node, properties, children) {
  for (const [name, value] of Object.entries(properties || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** Characters that show nothing, or that turn the text around them, as something to look at. */
function visible(text) {
  return text
    .replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
    .replace(
      /[\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
      (c) => `\u27e8U+${c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}\u27e9`,
    );
}

/** Text of the data, in an element that keeps its lines, and its direction to itself. */
function quoted(text, tag = "div", properties = {}) {
  return element(tag, { dir: "auto", ...properties, class: `quoted ${properties.class || ""}` }, visible(text));
}

function button(label, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, label);
}

/** A labelled select; `options` are [value, label]. */
function choice(label, options, onchange) {
  const select = element("select", { onchange: () => onchange(select.value) });
  select.append(...options.map(([value, text]) => element("option", { value }, text)));
  return { node: element("label", { class: "field" }, element("span", {}, label), select), select };
}

/** Buttons of which one is pressed. */
function segmented(label, options, chosen, onchange) {
  const buttons = options.map(([value, text]) => button(text, () => choose(value), { "data-value": value }));
  function choose(value) {
    for (const one of buttons) one.setAttribute("aria-pressed", String(one.dataset.value === value));
    onchange(value);
  }
  for (const one of buttons) one.setAttribute("aria-pressed", String(one.dataset.value === chosen));
  return element("div", { class: "segmented", role: "group", "aria-label": label }, buttons);
}

/** A heading, which the navigation calls `name`, and what stands below it. */
function section(id, name, title, note, ...children) {
  document.getElementById("sections").append(element("a", { href: `#${id}` }, name));
  return element(
    "section",
    { id, "aria-labelledby": `${id}-title` },
    element("h2", { id: `${id}-title` }, title),
    note ? element("p", { class: "note" }, note) : null,
    ...children,
  );
}

const percent = (value) => (value === null ? "\u2013" : (100 * value).toFixed(1));
const signed = (value) => `${value < 0 ? "\u2212" : "+"}${Math.abs(100 * value).toFixed(1)}`;
const grouped = new Intl.NumberFormat("en").format;
const plural = (n, one, many = `${one}s`) => `${grouped(n)} ${n === 1 ? one : many}`;

/** A number with three digits that count. */
function short(value) {
  if (value === null) return "\u2013";
  const size = Math.abs(value);
  if (size >= 999500) return `${Number((value / 1e6).toPrecision(3))}M`;
  if (size >= 1000) return `${Number((value / 1e3).toPrecision(3))}k`;
  if (size >= 99.5 || Number.isInteger(value)) return value.toFixed(0);
  return value.toFixed(size >= 9.95 ? 1 : 2);
}

// A long list, a page at a time: what is not looked at is not in the document.

/** draw(item, index) gives a list item; show(items) starts anew on the page of item number `at`. */
function pager(label, size, draw) {
  const list = element("ol", { class: "rows", "aria-label": label });
  const position = element("span", { "aria-live": "polite" });
  const back = button("\u2039 previous", () => turn(-1)),
    on = button("next \u203a", () => turn(1));
  const bar = element("div", { class: "pages" }, back, position, on);
  let items = [],
    page = 0;
  function turn(by) {
    page += by;
    render();
    list.scrollTop = 0;
  }
  function render() {
    const first = page * size,
      shown = items.slice(first, first + size);
    list.replaceChildren(...shown.map((item, i) => draw(item, first + i)));
    bar.hidden = items.length <= size;
    position.textContent = `${first + 1}\u2013${first + shown.length} of ${grouped(items.length)}`;
    back.disabled = page === 0;
    on.disabled = first + size >= items.length;
  }
  return {
    node: element("div", {}, bar, list),
    show(found, at = 0) {
      items = found;
      page = Math.floor(at / size);
      render();
    },
  };
}

// Sorting and filtering. Without this script every row is there, in the order of the tables.
"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const tables = [...document.querySelectorAll("table.sortable")];
  const opposite = { ascending: "descending", descending: "ascending" };
  const byText = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  // What the page looks like is kept in the history entry, so that "back" finds it again.
  const remember = () => history.replaceState({ ...history.state, sorted: tables.map(order), filters: chosen() }, "");

  const heads = (table) => [...table.tHead.rows[table.tHead.rows.length - 1].cells];

  function order(table) {
    const column = heads(table).findIndex((head) => head.hasAttribute("aria-sort"));
    return column < 0 ? null : { column, direction: heads(table)[column].getAttribute("aria-sort") };
  }

  function sort(table, column, direction) {
    const body = table.tBodies[0];
    const key = (row) => {
      const cell = row.cells[column];
      return "value" in cell.dataset ? cell.dataset.value : cell.textContent.trim();
    };
    const numeric = [...body.rows].some((row) => "value" in row.cells[column].dataset);
    const sign = direction === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [key(row), row]);
    rows.sort(([left], [right]) => {
      if (left === "" || right === "") return (left === "") - (right === ""); // empty cells last, whatever the direction
      return sign * (numeric ? Number(left) - Number(right) : byText.compare(left, right));
    });
    body.append(...rows.map(([, row]) => row));
    heads(table).forEach((head, place) => {
      if (place === column) head.setAttribute("aria-sort", direction);
      else head.removeAttribute("aria-sort");
    });
  }

  for (const table of tables) {
    heads(table).forEach((head, column) => {
      const button = head.querySelector("button");
      if (!button) return;
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        sort(table, column, now ? opposite[now] : button.dataset.first);
        remember();
      });
    });
  }

  const form = document.getElementById("filters");
  const fields = ["text", "method", "backbone", "suite", "dataset"];

  function chosen() {
    return form ? Object.fromEntries(fields.map((name) => [name, form.elements[name].value])) : {};
  }

  function filter() {
    const { text, method, backbone, suite, dataset } = chosen();
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0, all = 0;
    for (const board of document.querySelectorAll("section.board")) {
      let here = 0;
      for (const row of board.querySelectorAll("tbody tr")) {
        const { method: own, suites, datasets, search } = row.dataset;
        row.hidden = !(
          (!method || own === method) &&
          (!backbone || board.dataset.backbone === backbone) &&
          (!suite || JSON.parse(suites).includes(suite)) &&
          (!dataset || JSON.parse(datasets).includes(dataset)) &&
          words.every((word) => search.includes(word))
        );
        all += 1;
        here += !row.hidden;
      }
      shown += here;
      board.hidden = here === 0;
      columns(board.querySelector("table"), dataset);
    }
    document.getElementById("shown").textContent = `${shown} of ${all} row${all === 1 ? "" : "s"}`;
    document.getElementById("nothing").hidden = shown > 0;
  }

  // With one data set chosen, the other ones and the means over all of them make room.
  function columns(table, dataset) {
    heads(table).forEach((head, column) => {
      const score = head.classList.contains("score");
      const hide = dataset !== "" && ((score && head.dataset.dataset !== dataset) || head.classList.contains("mean"));
      head.hidden = hide;
      for (const row of table.tBodies[0].rows) row.cells[column].hidden = hide;
    });
    const groups = table.querySelector("tr.groups");
    if (groups) groups.hidden = dataset !== "";
  }

  function restore() {
    const state = history.state || {};
    if (form) {
      for (const name of fields) if (state.filters && name in state.filters) form.elements[name].value = state.filters[name];
      form.hidden = false;
      filter();
    }
    (state.sorted || []).forEach((kept, place) => {
      if (kept && tables[place] && heads(tables[place])[kept.column]) sort(tables[place], kept.column, kept.direction);
    });
  }

  if (form) {
    const changed = () => { filter(); remember(); };
    form.addEventListener("input", changed);
    form.addEventListener("change", changed); // what a browser or an assistant fills in
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("reset", () => setTimeout(changed));
  }
  restore();
})();

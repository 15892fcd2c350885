// Niceties only: the page says everything without this.
(function () {
  "use strict";
  const number = (cell) => {
    const found = cell.textContent.replace(/[\s,]/g, "").replace("\u2212", "-").match(/^[+]?(-?\d+(?:\.\d+)?)/);
    return found ? parseFloat(found[1]) : null;
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    const body = table.tBodies[0];
    if (!body || body.rows.length < 3) return;
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        table.querySelectorAll("th[aria-sort]").forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const compare = (a, b) => {
          const [x, y] = [a.cells[column], b.cells[column]];
          if (!x || !y) return x ? -1 : y ? 1 : 0;
          const [m, n] = [number(x), number(y)];
          if (m !== null && n !== null) return m - n;
          if (m !== null || n !== null) return m !== null ? -1 : 1; // what is missing goes last
          return x.textContent.localeCompare(y.textContent, undefined, { numeric: true });
        };
        const rows = Array.from(body.rows).sort((a, b) => (down ? -compare(a, b) : compare(a, b)));
        body.append(...rows);
      });
    });
  });
  // Paper can't be unfolded: open what is folded for printing, bulk lists apart, and put it back after.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = Array.from(document.querySelectorAll("details:not([open]):not(.bulk)"));
    opened.forEach((element) => { element.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((element) => { element.open = false; }));
})();

"use strict";
{
  // Light or dark: what the system says, until the button says otherwise.
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const key = "sbc-report-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : system.matches;
    button.setAttribute("aria-pressed", String(dark));
  };
  try { // storage may be forbidden
    const kept = localStorage.getItem(key);
    if (kept === "light" || kept === "dark") root.dataset.theme = kept;
  } catch {}
  button.addEventListener("click", () => {
    root.dataset.theme = button.getAttribute("aria-pressed") === "true" ? "light" : "dark";
    try { localStorage.setItem(key, root.dataset.theme); } catch {}
    show();
  });
  system.addEventListener("change", show);
  show();

  // A heading sorts its table's rows by their data-key: up, then down. Cells without one stay last.
  const byName = (a, b) => a.localeCompare(b, "en", { numeric: true });
  const byNumber = (a, b) => Number(a) - Number(b);
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
      const compare = head.classList.contains("number") ? byNumber : byName;
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].map((row) => [row.cells[column].dataset.key, row]);
      const missing = (k) => Number(k === undefined);
      rows.sort(([a], [b]) => missing(a) - missing(b) || (missing(a) ? 0 : sign * compare(a, b)));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    }));
  }

  // Everything is printed, also by browsers that do not know ::details-content.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const details of opened) details.open = true;
  });
  addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
}

"use strict";
// Tables: a heading is a button that sorts by its column, up, then down. Equal rows stay in the order
// they were in; rows without a value come last either way.
for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const numeric = heading.classList.contains("number");
      const keyed = [...body.rows].map((row) => [row, key(row.cells[column], numeric)]);
      keyed.sort(([, a], [, b]) => compare(a, b, down ? -1 : 1));
      body.append(...keyed.map(([row]) => row));
    });
  });
}

function key(cell, numeric) {
  if (!numeric) return cell.textContent.trim();
  return "value" in cell.dataset ? Number(cell.dataset.value) : null;
}

function compare(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number") return sign * (a - b);
  return sign * a.localeCompare(b, "en", { numeric: true });
}

// A table that is wider than the page says so above it.
function measure() {
  for (const box of document.querySelectorAll(".scroll")) {
    box.parentElement.classList.toggle("wider", box.scrollWidth > box.clientWidth + 1);
  }
}
addEventListener("resize", measure);
measure();

// What is folded is printed, too, and opened where a link leads to it.
const folded = [...document.querySelectorAll("details")];
let opened = [];
addEventListener("beforeprint", () => {
  opened = folded.filter((part) => !part.open);
  opened.forEach((part) => (part.open = true));
});
addEventListener("afterprint", () => opened.forEach((part) => (part.open = false)));
function reveal() {
  const part = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (part instanceof HTMLDetailsElement) part.open = true;
}
addEventListener("hashchange", reveal);
reveal();

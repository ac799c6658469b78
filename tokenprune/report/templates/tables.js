// Tables that sort by a click on a heading, and filter by text. Without this script they are plain.
const NUMBER = /^[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?/i;

// Returns what a cell sorts by: a number where it begins with one, else its text; null, which sorts last, where it holds nothing.
function sortKey(cell) {
  const text = (cell.dataset.value ?? cell.textContent).trim().replace("−", "-");
  if (!text || text === "—") return null;
  const number = text.match(NUMBER);
  return number ? Number(number[0].replaceAll(",", "")) : text.toLowerCase();
}

function compareKeys(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === typeof b) return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));
  return typeof a === "number" ? -1 : 1;
}

// Makes the headings of a table buttons; those with `data-fixed` stay as they are.
function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if ("fixed" in head.dataset) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    head.scope = "col";
    button.addEventListener("click", () => {
      const sign = head.ariaSort === "ascending" ? -1 : 1;
      for (const other of heads) other.ariaSort = null;
      head.ariaSort = sign > 0 ? "ascending" : "descending";
      const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column]), row]);
      rows.sort((one, other) => compareKeys(one[0], other[0], sign));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

// Puts a box above a table that hides the rows without its text.
function filterable(table, name) {
  const box = document.createElement("input");
  box.type = "search";
  box.className = "filter";
  box.placeholder = "filter rows";
  box.setAttribute("aria-label", `Filter the rows of ${name}`);
  box.addEventListener("input", () => {
    const wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of table.tBodies[0].rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
    }
  });
  table.closest(".wide").before(box);
}

const FEW = 2, MANY = 7;  // rows: fewer are not sorted, more get a filter
for (const table of document.querySelectorAll(".wide table")) {
  const rows = table.tHead && table.tBodies.length ? table.tBodies[0].rows.length : 0;
  if (rows <= FEW) continue;
  sortable(table);
  if (rows > MANY) filterable(table, table.closest("section")?.querySelector("h2")?.textContent ?? "the table");
}

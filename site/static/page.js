// What pages do not need: tables that sort and filter, and buttons that copy a command.
"use strict";

const text = cell => cell ? cell.innerText.trim() : "";

// A cell's figure in SI, else its text; rows without either go last.
const key = cell => {
  const figure = cell && cell.querySelector("data");
  return figure ? Number(figure.value) : text(cell).toLowerCase();
};

const compare = (a, b) => {
  if (typeof a === typeof b) return typeof a === "number" ? a - b : a.localeCompare(b);
  return typeof a === "number" ? -1 : 1;
};

const sortable = (table, body) => {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => {
    if (!text(head)) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach(one => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].sort((a, b) => compare(key(a.cells[at]), key(b.cells[at])));
      body.append(...(down ? rows.reverse() : rows));
    });
  });
};

const filterable = (table, body) => {
  const region = table.closest(".scroll") || table;
  const box = document.createElement("label");
  const input = document.createElement("input");
  const count = document.createElement("output");
  box.className = "filter";
  input.type = "search";
  box.append("Filter these rows ", input, " ", count);
  region.before(box);
  input.addEventListener("input", () => {
    const wanted = input.value.toLowerCase().split(/\s+/);
    const rows = [...body.rows];
    rows.forEach(row => {
      const has = row.textContent.toLowerCase();
      row.hidden = !wanted.every(word => has.includes(word));
    });
    count.value = input.value ? `${rows.filter(row => !row.hidden).length} of ${rows.length}` : "";
  });
};

const FEW = 3, MANY = 11;

document.querySelectorAll("main table").forEach(table => {
  const plain = table.tHead && table.tHead.rows.length === 1 && table.tBodies.length === 1
    && !table.querySelector("tbody [colspan], tbody [rowspan], thead [colspan]");
  if (!plain || table.tBodies[0].rows.length <= FEW) return;
  sortable(table, table.tBodies[0]);
  if (table.tBodies[0].rows.length > MANY) filterable(table, table.tBodies[0]);
});

if (navigator.clipboard) {
  document.querySelectorAll(".repeat code, .essay pre").forEach(code => {
    const button = document.createElement("button");
    const command = code.textContent.trim();
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.setAttribute("aria-label", `Copy: ${command.split("\n")[0]}`);
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(command);
      button.textContent = "Copied";
    });
    code.after(button);
  });
}

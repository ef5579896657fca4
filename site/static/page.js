// What pages do not need: tables that sort and filter, and buttons that copy a command.
"use strict";

const text = cell => cell ? cell.innerText.trim() : "";

// What a cell is sorted by: its figure in SI with the figure's unit, else its text.
const key = cell => {
  const figure = cell && cell.querySelector("data");
  return figure ? { unit: figure.dataset.unit || "", value: Number(figure.value) }
    : { text: text(cell).toLowerCase() };
};

// Seconds, bytes and counts have no common order, so figures are grouped by their units. Then come
// cells with text only, in a column of figures those that have none, then empty ones: the same in
// either direction.
const compare = (a, b, down) => {
  const sign = down ? -1 : 1;
  if ("value" in a !== "value" in b) return "value" in a ? -1 : 1;
  if ("value" in a) return a.unit.localeCompare(b.unit) || sign * (a.value - b.value);
  if (!a.text !== !b.text) return a.text ? -1 : 1;
  return sign * a.text.localeCompare(b.text);
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
      body.append(...[...body.rows].sort((a, b) =>
        compare(key(a.cells[at]), key(b.cells[at]), down)));
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

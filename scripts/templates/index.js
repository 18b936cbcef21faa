// Sorts the tables by their heads and filters every table by one form; without it the page is whole, and longer.
const form = document.querySelector("form.desk"), found = form.querySelector("output");
const releases = [...document.querySelectorAll(".releases tbody")];
const texts = new Map(releases.map((one) => [one, one.textContent.replaceAll("\u200b", "").toLowerCase()]));
const rows = new Map();
for (const one of document.querySelectorAll("tbody[data-id]")) rows.set(one.dataset.id, [...(rows.get(one.dataset.id) || []), one]);
function filter() {
  const chosen = new Set([...form.querySelectorAll("[name=decision]:checked")].map((box) => box.value));
  const words = form.elements.text.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const one of releases) {
    const {model, suite, decision} = one.dataset;
    const stays = chosen.has(decision) && (!form.elements.model.value || form.elements.model.value === model)
      && (!form.elements.suite.value || form.elements.suite.value === suite) && words.every((word) => texts.get(one).includes(word));
    shown += stays;
    for (const row of rows.get(one.dataset.id)) row.hidden = !stays;
  }
  found.value = `${shown} of ${releases.length}`;
}
const collator = new Intl.Collator("en", {numeric: true});
function sort(table, column, descending) {
  const key = (body) => { const cell = body.rows[0].cells[column]; return cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v === "" ? null : Number(cell.dataset.v); };
  const bodies = [...table.tBodies].filter((body) => !body.classList.contains("fixed")).map((body) => [key(body), body]);
  bodies.sort(([one], [other]) => {
    if (one === null || other === null) return (one === null) - (other === null); // what is not known is last either way
    const order = typeof one === "number" ? one - other : collator.compare(one, other);
    return descending ? -order : order;
  });
  table.append(...bodies.map(([, body]) => body));
}
for (const table of document.querySelectorAll("table.sorts")) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(table, column, descending);
    });
  });
}
// An archive of Snakemake (--report) keeps each page in a folder of its own, named by a digest, and no bundle.
if (/\/data\/raw\/[0-9a-f]{16}\/[^/]+$/.test(location.pathname)) {
  for (const link of document.querySelectorAll("a[data-archived]")) {
    const {archived} = link.dataset;
    if (archived) link.href = `../${archived}/report.html`;
    else link.replaceWith(link.textContent);
  }
}
form.hidden = false;
form.addEventListener("input", filter);
form.addEventListener("submit", (event) => event.preventDefault());
filter();

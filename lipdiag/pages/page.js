"use strict";
// A click on a heading sorts its table; another one turns the order round.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, table = heading.closest("table"), body = table.tBodies[0];
    const up = heading.ariaSort !== "ascending", column = heading.cellIndex;
    const value = (row) => parseFloat(row.cells[column].dataset.value);
    const order = (a, b) => (isNaN(a) - isNaN(b)) || (up ? a - b : b - a); // what was not measured comes last
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.ariaSort = up ? "ascending" : "descending";
    body.append(...[...body.rows].sort((a, b) => order(value(a), value(b))));
  });
}
// A point under the pointer, or touched, is read out below its figure.
for (const figure of document.querySelectorAll("figure")) {
  figure.addEventListener("pointerover", (event) => {
    const title = event.target.querySelector?.(":scope > title");
    if (title) figure.querySelector("output").textContent = title.textContent;
  });
}
// What a paper needs of a figure goes to the clipboard; where the browser forbids that it is shown, to be copied by hand.
for (const button of document.querySelectorAll("button.copy")) {
  button.addEventListener("click", () => {
    const output = button.closest("figure").querySelector("output");
    const shown = () => { output.textContent = button.dataset.text; getSelection().selectAllChildren(output); };
    if (!navigator.clipboard) return shown();
    navigator.clipboard.writeText(button.dataset.text).then(() => { output.textContent = "copied"; }, shown);
  });
}

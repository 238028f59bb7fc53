"use strict";
(() => {
  const errors = [];
  addEventListener("error", (event) => errors.push(String(event.message)));
  document.addEventListener("securitypolicyviolation", (event) => errors.push(`${event.violatedDirective} ${event.blockedURI}`));

  const compare = (one, other) => {
    const [first, second] = [Number(one), Number(other)];
    return Number.isNaN(first) || Number.isNaN(second) ? one.localeCompare(other, undefined, { numeric: true }) : first - second;
  };

  const sort = (table, heading) => {
    const descending = heading.getAttribute("aria-sort") === "ascending";
    for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const value = (row) => row.cells[heading.cellIndex].dataset.value;
    const rows = [...table.tBodies[0].rows].sort((one, other) => {
      const [first, second] = [value(one), value(other)];
      if (first === undefined || second === undefined) return (first === undefined) - (second === undefined);
      return descending ? compare(second, first) : compare(first, second);
    });
    table.tBodies[0].append(...rows);
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) {
    for (const heading of table.tHead.rows[0].cells) {
      heading.querySelector("button").addEventListener("click", () => sort(table, heading));
    }
  }

  const slices = JSON.parse(document.getElementById("slices").textContent);
  for (const viewer of document.querySelectorAll(".viewer")) {
    const scans = viewer.querySelectorAll(".scan");
    const overlays = viewer.querySelectorAll(".overlay");
    const slider = viewer.querySelector("input[type=range]");
    const text = viewer.querySelector("output");
    slider.addEventListener("input", () => {
      const [words, scan, ...colours] = slices[viewer.id][Number(slider.value) - 1];
      for (const picture of scans) {
        picture.src = scan;
        picture.alt = `${viewer.querySelector("h3").textContent}: scan, ${words}`;
      }
      overlays.forEach((picture, number) => { picture.src = colours[number]; });
      text.textContent = words;
      slider.setAttribute("aria-valuetext", words);
    });
    const colours = viewer.querySelector("input[type=checkbox]");
    colours.addEventListener("change", () => viewer.classList.toggle("plain", !colours.checked));
  }

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const part of opened) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of opened) part.open = false;
  });

  const cases = document.getElementById("cases");
  window.reportReady = { cases: cases ? cases.tBodies[0].rows.length : 0, errors };
})();

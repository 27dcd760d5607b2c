"use strict";

/* The browser's own sort is stable, so rows that are equal keep their order. */
function sortTables() {
  const order = new Intl.Collator("en", { numeric: true }).compare;
  const number = (text) => parseFloat(text.replace(/(\d) (?=\d{3})/g, "$1"));
  const compare = (a, b) => number(a) - number(b) || order(a, b);
  for (const table of document.querySelectorAll("table")) {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      if (!head.textContent.trim() || original.length < 2) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const turns = { none: "ascending", ascending: "descending", descending: "none" };
        const now = turns[head.ariaSort ?? "none"];
        for (const other of heads) other.removeAttribute("aria-sort");
        if (now !== "none") head.setAttribute("aria-sort", now);
        const sign = now === "descending" ? -1 : 1;
        const text = (row) => row.cells[column].textContent.trim();
        const sorted = [...original];
        if (now !== "none") sorted.sort((a, b) => sign * compare(text(a), text(b)));
        body.append(...sorted);
      });
    });
  }
}

const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

/* Names come as plotly reads them, escaped: a line must not end inside an entity. */
const plain = (text) =>
  text.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");
const escaped = (text) =>
  text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");

/* Words in lines of at most so many letters: plotly cuts off what is too long. */
function wrapped(text, letters) {
  const lines = [""];
  const pieces = new RegExp(`\\S{1,${letters}}`, "g");
  for (const word of plain(text).match(pieces) ?? []) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && longer.length > letters) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.map(escaped).join("<br>");
}

function fitted(plot, { data, layout }) {
  const narrow = plot.clientWidth < 500;
  const named = data.length > 1 && layout.showlegend !== false;
  const letters = narrow ? 14 : 24;
  for (const letter of ["x", "y"]) {
    const labels = data.flatMap((trace) => (Array.isArray(trace[letter]) ? trace[letter] : []));
    const long = labels.filter((label) => typeof label === "string" && plain(label).length > letters);
    for (const [name, axis] of Object.entries(layout)) {
      if (!name.startsWith(`${letter}axis`)) continue;
      axis.automargin = true;
      axis.labelalias = Object.fromEntries(long.map((label) => [label, wrapped(label, letters)]));
      if (axis.title?.text) axis.title.text = wrapped(axis.title.text, Math.floor(plot.clientWidth / 11));
    }
  }
  for (const trace of data) {
    if (trace.type === "heatmap") Object.assign(trace, { showscale: !narrow, textfont: { size: 12 } });
  }
  if (narrow && named && data.length > 4) {
    plot.style.height = `${plot.clientHeight + 20 * data.length}px`;
  }
  delete layout.title; // it is the caption
  return Object.assign(layout, {
    font: { color: colour("--ink"), size: 13 },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1.02, yanchor: "bottom" },
    margin: { l: 50, r: 16, t: named ? 72 : 40, b: 48 },
    // A finger that scrolls the page must not draw a box.
    dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    modebar: { bgcolor: colour("--paper"), color: colour("--soft"), activecolor: colour("--ink") },
  });
}

function drawFigures() {
  const plots = [...document.querySelectorAll(".plot")];
  for (const plot of plots) {
    const script = plot.querySelector("script");
    const figure = JSON.parse(script.textContent);
    script.remove();
    const config = { displaylogo: false, responsive: true };
    Plotly.newPlot(plot, figure.data, fitted(plot, figure), config);
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const plot of plots) {
      Plotly.relayout(plot, {
        "font.color": colour("--ink"),
        "modebar.bgcolor": colour("--paper"),
        "modebar.color": colour("--soft"),
        "modebar.activecolor": colour("--ink"),
      });
    }
  });
}

sortTables();
drawFigures();

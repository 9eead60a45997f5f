"use strict";
// Draws each figure from the JSON beside it. This script and Plotly's are the only ones that the page may run.
const touch = window.matchMedia("(pointer: coarse)").matches;
const config = { displaylogo: false, displayModeBar: touch ? false : "hover", modeBarButtons: [["toImage", "resetScale2d"]] };
const boxes = [...document.querySelectorAll(".plot")];
const observer = new ResizeObserver((entries) => entries.forEach((entry) => Plotly.Plots.resize(entry.target)));
for (const box of boxes) {
  const { data, layout } = JSON.parse(document.getElementById(`${box.id}-data`).textContent);
  if (box.clientWidth < 660 && layout.title?.text) { // lines that are as long as a wide page takes
    const before = layout.title.text.split("<br>");
    const lines = before.flatMap((line) => line.match(/(<span[^>]*>)?.{1,54}( |$)/g) ?? [line]);
    const room = 16 * (lines.length - before.length);
    layout.title.text = lines.join("<br>");
    [layout.height, layout.margin.t] = [layout.height + room, layout.margin.t + room];
    box.style.height = `${layout.height}px`;
  }
  if (touch) layout.dragmode = false; // else a finger zooms where it meant to scroll
  Plotly.newPlot(box, data, layout, config).then(() => observer.observe(box));
}
// Paper has a width of its own, and takes the figures as they are when it is asked for.
window.addEventListener("beforeprint", () => {
  document.body.classList.add("paper");
  for (const box of boxes) Plotly.relayout(box, { width: box.clientWidth });
});
window.addEventListener("afterprint", () => {
  document.body.classList.remove("paper");
  for (const box of boxes) Plotly.relayout(box, { width: null, autosize: true });
});

/** Heat map of js by layer and kind, at one token or as the mean over the sample's tokens. */

import { tokenLabel, placeOf, jsText, type App, type Shown } from "./app";
import { eachFrame, el, heatMap, oneLine, outline, sized } from "./dom";
import { rowHeight } from "./layout";
import { step } from "./scale";
import { byComponent, patternOf, strongestOf } from "./select";
import { NO_LAYER } from "./state";

const ROOM = 336;

export function componentMap(app: App) {
  const heading = el("p", { class: "readout" });
  const canvas = heatMap("Js by layer and kind; arrows move, Enter opens the component");
  const [kinds, layers] = [el("div", { class: "kinds" }), el("div", { class: "layers" })];
  const readout = el("p", { class: "readout", role: "status" });
  const root = el("div", { class: "map" }, heading, readout, el("div", { class: "frame" }, kinds, layers, canvas));
  let shown: Shown | null = null;
  let values: Float64Array = new Float64Array();
  let [column, row] = [1, 1];
  let [cursor, drawn] = [-1, ""];

  const n = () => shown!.grid.kinds.length;
  const best = (cell: number) => strongestOf(shown!.grid.members[cell] ?? [], shown!.mask, values);
  const at = (event: MouseEvent) => {
    const { left, top } = canvas.getBoundingClientRect();
    const [x, y] = [Math.floor((event.clientX - left) / column), Math.floor((event.clientY - top) / row)];
    return shown && x >= 0 && y >= 0 && x < n() && y < shown.grid.layers.length ? y * n() + x : -1;
  };
  canvas.addEventListener("pointermove", (event) => event.pointerType === "mouse" && point(at(event)));
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("blur", () => point(-1));
  canvas.addEventListener("click", (event) => open(at(event)));
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!shown || (!by && event.key !== "Enter")) return;
    event.preventDefault();
    event.stopPropagation();
    const now = cursor >= 0 ? cursor : chosenCell();
    if (!by) return open(now);
    const [x, y] = now < 0 ? [0, 0] : [(now % n()) + by[0]!, Math.floor(now / n()) + by[1]!];
    point(Math.max(0, Math.min(shown.grid.layers.length - 1, y)) * n() + Math.max(0, Math.min(n() - 1, x)));
  });

  function chosenCell(): number {
    const component = shown!.run.components.findIndex(({ path }) => path === app.view.component);
    return component < 0 ? -1 : shown!.grid.cell[component]!;
  }

  function point(cell: number): void {
    cursor = cell;
    say();
    draw();
  }

  /** Open a cell's component, at the chosen token, else where its js is largest. */
  function open(cell: number): void {
    const component = shown ? best(cell) : undefined;
    if (component === undefined) return;
    const { path, layer } = shown!.run.components[component]!;
    app.go({ component: path, layer, direction: -1 }, true);
  }

  function say(): void {
    const cell = cursor >= 0 ? cursor : chosenCell();
    const { grid, run, mask } = shown!;
    const [component, n] = [best(cell), grid.members[cell]?.length];
    readout.textContent = cell < 0 ? "Choose a cell to look into a component."
      : component === undefined ? "There is no such component."
        : `${oneLine(run.components[component]!.path)}: ${jsText(values[component]!)}`
          + (n === 1 ? "" : ` · the strongest of ${n}; a filter shows others`)
          + (mask[component] ? "" : " · excluded by the filter");
  }

  const draw = eachFrame(() => {
    const room = root.clientWidth - layers.offsetWidth;
    if (!shown || room <= 0) return;
    const { grid, mask } = shown;
    row = rowHeight(ROOM, grid.layers.length, 8, 16);
    column = Math.max(6, Math.min(46, Math.floor(room / n())));
    const context = sized(canvas, column * n(), row * grid.layers.length);
    kinds.style.setProperty("--column", `${column}px`);
    layers.style.setProperty("--row", `${row}px`);
    grid.members.forEach((members, cell) => {
      if (!members.length) return;
      const shade = step(values[best(cell)!]!, app.scale.js);
      const [x, y] = [(cell % n()) * column, Math.floor(cell / n()) * row];
      context.globalAlpha = members.some((each) => mask[each]) ? 1 : 0.15;
      context.fillStyle = shade < 0 ? app.palette.missing : app.ramp.fill[shade]!;
      context.fillRect(x, y, column - 1, row - 1);
    });
    context.globalAlpha = 1;
    const layer = grid.layers.indexOf(app.hovered.layer > NO_LAYER ? app.hovered.layer : app.view.layer);
    const { quiet, page } = app.palette;
    if (layer >= 0) outline(context, [0.5, layer * row - 1.5, column * n() - 2, row + 2], { ink: quiet, page }, 1);
    for (const [cell, weight] of [[chosenCell(), 2], [cursor, 1]] as const) {
      const [x, y] = [(cell % n()) * column + 0.5, Math.floor(cell / n()) * row + 0.5];
      if (cell >= 0) outline(context, [x, y, column - 2, row - 2], app.palette, weight);
    }
  });
  new ResizeObserver(draw).observe(root);

  /** Draw the labels of kinds and layers, which filter by a click. */
  function label(next: Shown): void {
    const { components } = next.run;
    const button = (text: string, pattern: string, isBare = false) => el("button", {
      class: isBare && "bare", "data-pattern": pattern, title: `Only ${pattern.length > 60 ? text : pattern}`,
      click: () => app.go({ filter: app.view.filter === pattern ? "" : pattern }, true),
    }, oneLine(text));
    kinds.replaceChildren(...next.grid.kinds.map((kind) => button(kind, patternOf(components, { kind }))));
    const apart = next.grid.layers.length > 32 ? 5 : 1;
    layers.replaceChildren(...next.grid.layers.map((layer, place) =>
      button(String(layer), patternOf(components, { layer }), place % apart > 0)));
  }

  function update(next: Shown): void {
    if (shown?.grid !== next.grid) [cursor] = [-1, label(next)];
    shown = next;
    drawn = "";
    for (const each of root.querySelectorAll<HTMLElement>("[data-pattern]")) {
      each.setAttribute("aria-pressed", String(each.dataset.pattern === app.view.filter));
    }
    paint();
  }

  function paint(): void {
    if (!shown) return;
    const { tokens } = shown;
    const token = placeOf(tokens.position, app.hovered.token >= 0 ? app.hovered.token : app.view.token);
    if (drawn !== String(token)) values = byComponent(tokens.js, tokens.n, shown.mask.length, token);
    drawn = String(token);
    heading.textContent = token < 0 ? `Mean over the ${tokens.n} tokens`
      : `${tokenLabel(tokens, token)}`;
    if (values.some(Number.isNaN)) heading.append(" · grey: no js");
    say();
    draw();
  }

  return { root, update, paint };
}

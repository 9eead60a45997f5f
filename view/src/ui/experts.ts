/** Heat map of a mixture's experts by layer, over all samples of the run. */

import type { Experts, Measure } from "../data/types";
import type { App } from "./app";
import { eachFrame, el, heatMap, outline, sized } from "./dom";
import { rowHeight } from "./layout";
import { num, step } from "./scale";

const SHOWN: Partial<Record<Measure, string>> = {
  miub: "MIUB, nats",
  delta_ratio: "|delta| / |base|",
  share: "share of tokens",
  base_share: "share of tokens without the adapter",
  gained: "share of tokens gained with the adapter",
};
const ROOM = 336;

const percent = (value: number) => `${num(100 * value)} %`;

/** All that is known of an expert, on one line. */
export function expertText({ layers, n, values }: Experts, cell: number): string {
  const of = (name: Measure) => values.get(name)?.[cell] ?? NaN;
  const name = `layer ${layers[Math.floor(cell / n)]}, expert ${cell % n}`;
  const pair = values.has("gained")
    ? `, ${percent(of("base_share"))} without the adapter, ${percent(of("gained"))} only with it` : "";
  if (!of("n_tokens")) return `${name}: no tokens${pair}`;
  const error = Number.isNaN(of("miub_se")) ? "" : ` ± ${num(of("miub_se"), 2)}`;
  return `${name}: MIUB ${num(of("miub"))}${error} nats · |delta| / |base| ${num(of("delta_ratio"))}`
    + ` · ${percent(of("share"))} of tokens (${of("n_tokens")})${pair}`;
}

export function expertMap(app: App) {
  const select = el("select", { name: "Experts by", "aria-label": "Experts by", change: () => draw() });
  const canvas = heatMap("Experts by layer; arrows move");
  const [numbers, layers] = [el("div", { class: "numbers" }), el("div", { class: "layers" })];
  const readout = el("p", { class: "readout", role: "status" });
  const root = el("div", { class: "experts", hidden: true },
    el("header", { class: "part" }, el("h2", {}, "Experts by layer"), select),
    el("div", { class: "frame" }, numbers, layers, canvas), readout); // below: a longer line moves no cell
  let shown: Experts | null = null;
  let [column, row, cursor] = [1, 1, -1];

  canvas.addEventListener("pointermove", (event) => {
    const { left, top } = canvas.getBoundingClientRect();
    move(Math.floor((event.clientX - left) / column), Math.floor((event.clientY - top) / row));
  });
  canvas.addEventListener("pointerleave", () => point(-1));
  canvas.addEventListener("blur", () => point(-1));
  canvas.addEventListener("keydown", (event) => {
    const by = { ArrowDown: [0, 1], ArrowUp: [0, -1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!shown || !by) return;
    event.preventDefault();
    event.stopPropagation();
    if (cursor < 0) move(0, 0);
    else move((cursor % shown.n) + by[0]!, Math.floor(cursor / shown.n) + by[1]!);
  });

  function move(x: number, y: number): void {
    if (!shown) return;
    const within = (at: number, n: number) => Math.max(0, Math.min(n - 1, at));
    point(within(y, shown.layers.length) * shown.n + within(x, shown.n));
  }

  function point(cell: number): void {
    cursor = cell;
    draw();
  }

  const draw = eachFrame(() => {
    const room = root.clientWidth - layers.offsetWidth;
    if (!shown || room <= 0) return;
    const { n, layers: rows } = shown;
    row = rowHeight(ROOM, rows.length, 8, 16);
    column = Math.max(2, Math.min(46, Math.floor(room / n)));
    const context = sized(canvas, column * n, row * rows.length);
    layers.style.setProperty("--row", `${row}px`);
    const values = shown.values.get(select.value as Measure)!, routed = shown.values.get("n_tokens")!;
    const top = values.reduce((most, value) => Math.max(most, value || 0), 0);
    const isOfTokens = select.value === "miub" || select.value === "delta_ratio";
    values.forEach((value, cell) => {
      const shade = isOfTokens && !routed[cell] ? -1 : step(value, top);
      context.fillStyle = shade < 0 ? app.palette.missing : app.ramp.fill[shade]!;
      const gap = column > 4 ? 1 : 0;
      context.fillRect((cell % n) * column, Math.floor(cell / n) * row, column - gap, row - 1);
    });
    if (cursor >= 0) {
      const [x, y] = [(cursor % n) * column + 0.5, Math.floor(cursor / n) * row + 0.5];
      outline(context, [x, y, Math.max(1, column - 2), row - 2], app.palette, 1);
    }
    readout.textContent = cursor >= 0 ? expertText(shown, cursor)
      : `All samples; darkest: ${num(top)}${isOfTokens ? " · grey: no tokens" : ""}`;
    const apart = Math.ceil(24 / column);
    numbers.style.setProperty("--column", `${column * apart}px`);
    const marks = Array.from({ length: Math.ceil(n / apart) }, (_, i) => el("span", {}, String(i * apart)));
    numbers.replaceChildren(...marks);
  });
  new ResizeObserver(draw).observe(root);

  function update(next: Experts | null): void {
    if (shown === next) return draw();
    [shown, cursor] = [next, -1];
    root.hidden = !next;
    if (!next) return;
    const names = (Object.keys(SHOWN) as Measure[]).filter((name) => next.values.has(name));
    select.replaceChildren(...names.map((name) => el("option", { value: name }, SHOWN[name]!)));
    const apart = next.layers.length > 32 ? 5 : 1;
    layers.replaceChildren(...next.layers.map((layer, place) => el("span", {}, place % apart ? "" : String(layer))));
    draw();
  }

  return { root, update, paint: draw };
}

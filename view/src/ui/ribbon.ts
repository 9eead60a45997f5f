/** Layer by token: js summed over the chosen components of a layer. Only what is in sight is drawn. */

import { placeOf, ROLES, SAID, type App, type Shown } from "./app";
import { eachFrame, el, oneLine, outline, sized } from "./dom";
import { columnAt, columns, inSight, rowHeight, scrollTo, type Columns } from "./layout";
import { num, step, topOf } from "./scale";

const GUTTER = 30;
const STRIP = 84;
const ROOM = 300;

export function ribbon(app: App) {
  const canvas = el("canvas", { tabindex: 0, role: "application", "aria-roledescription": "heat map", "aria-label": "Js by layer and token; arrows move, Enter opens the layer's strongest component" });
  const spacer = el("div", { class: "spacer" }, canvas);
  const box = el("div", { class: "scroll" }, spacer);
  const readout = el("p", { class: "readout", role: "status" });
  const root = el("div", { class: "ribbon" }, box, readout);
  let shown: Shown | null = null;
  let [across, row]: [Columns, number] = [{ gutter: GUTTER, width: 1, n: 0 }, 1];
  let [top, chosen] = [0, -1];

  const at = (event: MouseEvent) => {
    const { left, top: above } = canvas.getBoundingClientRect();
    const column = columnAt(across, event.clientX - left, box.scrollLeft);
    const layer = Math.floor((event.clientY - above - STRIP) / row);
    return { token: column < 0 ? -1 : shown!.tokens.position[column]!, layer: column < 0 ? -1 : shown!.grid.layers[layer] ?? -1 };
  };
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || !shown) return;
    const { token, layer } = at(event);
    app.hover(token, layer);
  });
  canvas.addEventListener("pointerleave", () => app.hover(-1, -1));
  canvas.addEventListener("click", (event) => {
    const { token, layer } = at(event);
    if (token >= 0) app.go({ token, offset: -1, layer: layer < 0 ? app.view.layer : layer }, true);
  });
  canvas.addEventListener("keydown", (event) => {
    if (!shown) return;
    const { layers, kinds, members } = shown.grid;
    const now = layers.indexOf(app.view.layer);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const next = now < 0 ? 0 : Math.max(0, Math.min(layers.length - 1, now + (event.key === "ArrowDown" ? 1 : -1)));
      app.go({ layer: layers[next]! });
    } else if (event.key === "Enter" && now >= 0) {
      const place = Math.max(0, placeOf(shown.tokens.position, app.view.token));
      const there = members.slice(now * kinds.length, (now + 1) * kinds.length).flat().filter((each) => shown!.mask[each]);
      const value = (component: number) => shown!.tokens.js[place * shown!.mask.length + component] || 0;
      const best = there.reduce((most, each) => (value(each) > value(most) ? each : most), there[0]!);
      if (best !== undefined) app.go({ component: shown.run.components[best]!.path, token: shown.tokens.position[place] ?? -1, direction: -1 }, true);
    } else return;
    event.preventDefault();
  });

  const draw = eachFrame(() => {
    if (!shown || !box.clientWidth) return;
    const { tokens, grid: { layers }, run, byLayer } = shown;
    const room = box.clientWidth;
    across = columns(room, tokens.n, GUTTER);
    row = rowHeight(ROOM, layers.length, 4, 14);
    spacer.style.width = `${Math.max(room, GUTTER + across.width * tokens.n)}px`;
    const width = Math.min(room, GUTTER + across.width * tokens.n + 1);
    const high = row * layers.length;
    const context = sized(canvas, width, STRIP + high + 2);
    const { ink, quiet, missing, page, line } = app.palette;
    const scrolled = box.scrollLeft;
    const [first, last] = inSight(across, scrolled, room);
    const x = (column: number) => GUTTER + column * across.width - scrolled;
    const over = placeOf(tokens.position, app.hovered.token);
    const picked = placeOf(tokens.position, app.view.token);
    context.save();
    context.beginPath();
    context.rect(GUTTER - 2, 0, width, STRIP + high + 2);
    context.clip();
    context.textBaseline = "middle";
    for (let column = first; column < last; column++) {
      for (let layer = 0; layer < layers.length; layer++) {
        const shade = step(byLayer[column * layers.length + layer]!, top);
        context.fillStyle = shade < 0 ? missing : app.ramp.fill[shade]!;
        context.fillRect(x(column), STRIP + layer * row, across.width - 1, row - (row > 6 ? 1 : 0));
      }
      const said = SAID.has(tokens.role[column]!);
      if (said) {
        context.fillStyle = ink;
        context.fillRect(x(column), STRIP - 5, across.width - 1, 2);
      }
      if (tokens.position[column]! > (column ? tokens.position[column - 1]! + 1 : 0)) {
        context.fillStyle = quiet;
        for (let y = 0; y < STRIP + high; y += 5) context.fillRect(x(column) - 1, y, 1, 3);
      }
      context.save();
      context.translate(x(column) + across.width / 2, STRIP - 9);
      context.rotate(-Math.PI / 2);
      context.fillStyle = column === over || column === picked || said ? ink : quiet;
      context.font = `${column === picked ? "600 " : ""}11px system-ui, sans-serif`;
      context.fillText(clipped(run.hasText ? tokens.text[column]! : `[${tokens.tokenId[column]}]`, context), 0, 0.5);
      context.restore();
    }
    const selected = layers.indexOf(app.view.layer);
    if (selected >= 0) outline(context, [GUTTER - 1, STRIP + selected * row - 0.5, x(tokens.n) - GUTTER + 1, row], { ink: quiet, page }, 1);
    if (picked >= 0) outline(context, [x(picked) - 0.5, STRIP - 1, across.width, high + 1], { ink, page });
    if (over >= 0) outline(context, [x(over) - 0.5, STRIP - 0.5, across.width, high], { ink, page }, 1);
    context.restore();
    context.fillStyle = page;
    if (scrolled) context.fillRect(0, 0, GUTTER - 2, STRIP + high + 2);
    context.textAlign = "right";
    context.textBaseline = "middle";
    context.font = "11px system-ui, sans-serif";
    const apart = Math.ceil(13 / row) === 1 ? 1 : 5 * Math.ceil(13 / row / 5);
    layers.forEach((layer, place) => {
      context.fillStyle = layer === app.view.layer || layer === app.hovered.layer ? ink : quiet;
      if (place % apart === 0) context.fillText(String(layer), GUTTER - 6, STRIP + (place + 0.5) * row);
    });
    context.fillStyle = line;
    context.fillText("layer", GUTTER - 3, STRIP - 7);
  });
  box.addEventListener("scroll", draw);
  new ResizeObserver(draw).observe(box);

  function update(next: Shown): void {
    if (shown?.tokens !== next.tokens) [box.scrollLeft, chosen] = [0, -1];
    shown = next;
    const all = next.mask.length;
    const there = next.mask.reduce((sum, each) => sum + each, 0);
    top = topOf(app.scale, there / Math.max(1, next.grid.layers.length), all);
    paint();
  }

  function paint(): void {
    if (!shown) return;
    const picked = placeOf(shown.tokens.position, app.view.token);
    if (picked >= 0 && picked !== chosen && box.clientWidth) box.scrollLeft = scrollTo(across, picked, box.scrollLeft, box.clientWidth);
    chosen = picked;
    const place = app.hovered.token >= 0 ? placeOf(shown.tokens.position, app.hovered.token) : picked;
    const layer = app.hovered.token >= 0 ? app.hovered.layer : app.view.layer;
    readout.textContent = place < 0 ? "Point at a token or a cell, or use the arrow keys." : told(shown, place, layer);
    draw();
  }

  return { root, update, paint, topOf: () => top };
}

function told({ tokens, grid: { layers }, byToken, byLayer }: Shown, place: number, layer: number): string {
  const row = layers.indexOf(layer);
  const value = row < 0 ? byToken[place]! : byLayer[place * layers.length + row]!;
  return `${oneLine(tokens.text[place] || `[${tokens.tokenId[place]}]`).trim()} · position ${tokens.position[place]}, ${ROLES[tokens.role[place]!] ?? "no role"} · `
    + `${row < 0 ? "all layers" : `layer ${layer}`}: js ${num(value)} nats · nll ${num(tokens.nll[place]!)} nats`;
}

/** The text on one line, cut to the strip. */
function clipped(text: string, context: CanvasRenderingContext2D): string {
  const letters = [...oneLine(text).replace(/^ /, "")];
  let n = letters.length;
  while (n > 1 && context.measureText(letters.slice(0, n).join("")).width > STRIP - 16) n--;
  return n < letters.length ? `${letters.slice(0, Math.max(1, n - 1)).join("")}…` : letters.join("");
}

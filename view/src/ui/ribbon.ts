/** Heat map of js by layer and token, summed over a layer's chosen components. Only visible columns are drawn. */

import { tokenLabel, placeOf, ANSWER_ROLES, textOf, jsText, type App, type Shown } from "./app";
import { eachFrame, el, heatMap, oneLine, outline, sized } from "./dom";
import { columnAt, columns, inSight, rowHeight, scrollTo, type Columns } from "./layout";
import { num, step } from "./scale";
import { strongestOf } from "./select";
import { NO_LAYER } from "./state";

const GUTTER = 30;
const NOWHERE = { token: -1, layer: NO_LAYER };
const FONT = "11px system-ui, sans-serif";
/** Pixels that the longest text of a token may take. */
const LONGEST = 76;
const ROOM = 270;

export function ribbon(app: App) {
  const canvas = heatMap("Js by layer and token; arrows move, Enter opens the layer's strongest component");
  const spacer = el("div", { class: "spacer" }, canvas);
  const box = el("div", { class: "scroll" }, spacer);
  const readout = el("p", { class: "readout", role: "status" });
  const more = el("p", { class: "more" });
  const root = el("div", { class: "ribbon" }, readout, box, more);
  let shown: Shown | null = null;
  let labels: string[] = [];
  /** Number of chosen components of each layer. */
  let chosenIn: number[] = [];
  let [across, row]: [Columns, number] = [{ gutter: GUTTER, width: 1, n: 0 }, 1];
  let [chosen, strip] = [-1, 0];

  const at = (event: MouseEvent) => {
    const { left, top: above } = canvas.getBoundingClientRect();
    const column = columnAt(across, event.clientX - left, box.scrollLeft);
    const layer = Math.floor((event.clientY - above - strip) / row);
    if (column < 0) return NOWHERE;
    return { token: shown!.tokens.position[column]!, layer: shown!.grid.layers[layer] ?? NO_LAYER };
  };
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse" || !shown) return;
    const { token, layer } = at(event);
    app.hover(token, layer);
  });
  canvas.addEventListener("pointerleave", () => app.hover(-1, NO_LAYER));
  canvas.addEventListener("click", (event) => {
    const { token, layer } = at(event);
    if (token >= 0) app.go({ token, offset: -1, layer: layer === NO_LAYER ? app.view.layer : layer }, true);
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
      const { mask, run: { components }, tokens: { js, position } } = shown;
      const there = members.slice(now * kinds.length, (now + 1) * kinds.length).flat();
      const best = strongestOf(there, mask, js.subarray(place * mask.length));
      if (best === undefined) return;
      app.go({ component: components[best]!.path, token: position[place] ?? -1, direction: -1 }, true);
    } else return;
    event.preventDefault();
  });

  const draw = eachFrame(() => {
    if (!shown || !box.clientWidth) return;
    const { tokens, grid: { layers }, byLayer } = shown;
    const room = box.clientWidth;
    across = columns(room, tokens.n, GUTTER);
    row = rowHeight(ROOM, layers.length, 4, 14);
    spacer.style.width = `${Math.max(room, GUTTER + across.width * tokens.n)}px`;
    const width = Math.min(room, GUTTER + across.width * tokens.n + 1);
    const high = row * layers.length;
    const context = sized(canvas, width, strip + high + 2);
    context.font = FONT;
    context.textBaseline = "middle";
    context.textAlign = "left";
    const { ink, quiet, missing, page } = app.palette;
    const picked = placeOf(tokens.position, app.view.token);
    if (picked >= 0 && picked !== chosen) box.scrollLeft = scrollTo(across, picked, box.scrollLeft, room);
    chosen = picked;
    const scrolled = box.scrollLeft;
    const [first, last] = inSight(across, scrolled, room);
    const x = (column: number) => GUTTER + column * across.width - scrolled;
    const over = placeOf(tokens.position, app.hovered.token);
    const between = Math.ceil(12 / across.width); // columns from one text to the next
    more.textContent = [
      last - first < tokens.n ? `Tokens ${first + 1} to ${last} of ${tokens.n}: scroll sideways for the others.` : "",
      byLayer.some((js, at) => Number.isNaN(js) && chosenIn[at % layers.length]) ? "Grey: no js." : "",
    ].join(" ");
    context.save();
    context.beginPath();
    context.rect(GUTTER - 2, 0, width, strip + high + 2);
    context.clip();
    for (let column = first; column < last; column++) {
      for (let layer = 0; layer < layers.length; layer++) {
        if (!chosenIn[layer]) continue;
        const shade = step(byLayer[column * layers.length + layer]!, app.scale.layer);
        context.fillStyle = shade < 0 ? missing : app.ramp.fill[shade]!;
        context.fillRect(x(column), strip + layer * row, across.width - 1, row - (row > 6 ? 1 : 0));
      }
      const said = ANSWER_ROLES.has(tokens.role[column]!);
      if (said) {
        context.fillStyle = ink;
        context.fillRect(x(column), strip - 5, across.width - 1, 2);
      }
      if (tokens.position[column]! > (column ? tokens.position[column - 1]! + 1 : 0)) {
        context.fillStyle = quiet;
        for (let y = 0; y < strip + high; y += 5) context.fillRect(x(column) - 1, y, 1, 3);
      }
      context.save();
      context.translate(x(column) + across.width / 2, strip - 9);
      context.rotate(-Math.PI / 2);
      context.fillStyle = column === over || column === picked || said ? ink : quiet;
      context.font = column === picked ? `600 ${FONT}` : FONT;
      if (column % between === 0) context.fillText(labels[column]!, 0, 0.5);
      context.restore();
    }
    const selected = layers.indexOf(app.view.layer);
    const [above, along] = [strip + selected * row - 2, x(tokens.n) - GUTTER + 1];
    if (selected >= 0) outline(context, [GUTTER - 1, above, along, row + 3], { ink: quiet, page }, 1);
    if (picked >= 0) outline(context, [x(picked) - 0.5, strip - 1, across.width, high + 1], { ink, page });
    if (over >= 0) outline(context, [x(over) - 0.5, strip - 0.5, across.width, high], { ink, page }, 1);
    context.restore();
    context.fillStyle = page;
    if (scrolled) context.fillRect(0, 0, GUTTER - 2, strip + high + 2);
    context.font = FONT;
    context.textAlign = "right";
    const apart = Math.ceil(13 / row) === 1 ? 1 : 5 * Math.ceil(13 / row / 5);
    layers.forEach((layer, place) => {
      context.fillStyle = layer === app.view.layer || layer === app.hovered.layer ? ink : quiet;
      if (place % apart === 0) context.fillText(String(layer), GUTTER - 6, strip + (place + 0.5) * row);
    });
  });
  box.addEventListener("scroll", draw);
  new ResizeObserver(draw).observe(box);

  function update(next: Shown): void {
    if (shown?.tokens !== next.tokens) {
      [box.scrollLeft, chosen] = [0, -1];
      [labels, strip] = axis(next, canvas.getContext("2d")!);
    }
    shown = next;
    const { layers, kinds, members } = next.grid;
    const inLayer = (at: number) => members.slice(at * kinds.length, (at + 1) * kinds.length).flat();
    chosenIn = layers.map((_, at) => inLayer(at).filter((each) => next.mask[each]).length);
    paint();
  }

  function paint(): void {
    if (!shown) return;
    const picked = placeOf(shown.tokens.position, app.view.token);
    const place = app.hovered.token >= 0 ? placeOf(shown.tokens.position, app.hovered.token) : picked;
    const layer = app.hovered.token >= 0 ? app.hovered.layer : app.view.layer;
    const { token } = app.view;
    readout.textContent = place >= 0 ? line(shown, place, layer)
      : token >= 0 ? `Position ${token} wasn't captured here.` : "Point at a token or a cell, or use the arrow keys.";
    draw();
  }

  return { root, update, paint };
}

function line({ tokens, grid: { layers }, byToken, byLayer }: Shown, place: number, layer: number): string {
  const row = layers.indexOf(layer);
  const js = jsText(row < 0 ? byToken[place]! : byLayer[place * layers.length + row]!);
  const of = row < 0 ? "all layers" : `layer ${layer}`;
  return `${tokenLabel(tokens, place)} · ${of}: ${js} · nll ${num(tokens.nll[place]!)} nats`;
}

/** Texts of the tokens, each cut to `LONGEST` pixels, and the height that they need. */
function axis({ tokens }: Shown, context: CanvasRenderingContext2D): [string[], number] {
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.font = `600 ${FONT}`;
  let most = 0;
  const cut = (token: string): string => {
    const letters = [...oneLine(token).trim()].slice(0, 40);
    let text = letters.join(""), width = context.measureText(text).width;
    while (width > LONGEST && letters.pop()) {
      text = `${letters.join("")}…`;
      width = context.measureText(text).width;
    }
    most = Math.max(most, width);
    return text;
  };
  return [tokens.text.map((_, at) => cut(textOf(tokens, at))), Math.ceil(most) + 14];
}

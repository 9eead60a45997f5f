/** A component at a token: numbers, directions, features, and where else a direction acts. */

import type { Cell, Context, Direction } from "../data/types";
import { named, placeOf, type App, type Shown } from "./app";
import { el, loader, oneLine } from "./dom";
import { num, signed } from "./scale";
import { format } from "./state";

export function cellPanel(app: App) {
  const title = el("h3");
  const [line, body] = [el("div"), el("div")];
  const root = el("section", { class: "cell", "aria-label": "Component", hidden: true },
    el("header", {}, title, el("button", { class: "quiet plain", "aria-label": "Close the component", click: () => app.go({ component: "", direction: -1 }, true) }, "✕")), line, body);
  const load = loader(line, body);
  let key = "";
  let [before, asked] = [app.view.component, false];
  let last: Cell | null = null;

  function update(shown: Shown): void {
    const { run, tokens, adapter, sample, place } = shown;
    const { component: path, token: position } = app.view;
    root.hidden = !path;
    const component = run.components.findIndex((each) => each.path === path);
    const picked = placeOf(tokens.position, position);
    const token = position < 0 ? strongest(shown, component) : picked;
    const next = JSON.stringify([run.place, adapter.name, sample, token, path]);
    asked ||= path !== before; // the panel of a component that was chosen here is brought in sight
    before = path;
    if (!path) return;
    if (next === key) return last ? draw(shown, last) : undefined;
    [key, last] = [next, null];
    const where = token < 0 ? "" : `${named(tokens, token)}${position < 0 ? ", where its js is largest" : ""}`;
    const failed = component < 0 ? `This run has no component ${oneLine(path)}.` : token < 0 ? "This token was not captured here." : "";
    const loading = failed ? Promise.reject(new Error(failed)) : app.data.cell(run, place, tokens.start + token, component);
    void load(loading, (cell) => {
      title.replaceChildren(el("b", {}, oneLine(path)), el("span", { class: "quiet" }, where));
      draw(shown, (last = cell));
      if (asked && root.getBoundingClientRect().top > 0.75 * innerHeight) root.scrollIntoView();
      asked = false;
    });
    if (body.hidden || !body.childNodes.length) title.replaceChildren(el("b", {}, oneLine(path)), el("span", { class: "quiet" }, where));
  }

  function draw(shown: Shown, cell: Cell): void {
    const now = `${key} ${app.view.direction}`;
    if (body.dataset.drawn === now) return;
    body.dataset.drawn = now;
    const held = body.querySelector(".directions")?.scrollTop ?? 0;
    const focused = [...body.querySelectorAll(".direction")].indexOf(document.activeElement!);
    body.replaceChildren(...numbers(cell), ...directions(app, shown, cell), ...features(cell));
    body.querySelector(".directions")?.scrollTo(0, held);
    body.querySelectorAll<HTMLElement>(".direction")[focused]?.focus();
  }

  return { root, update };
}

function strongest({ tokens, mask }: Shown, component: number): number {
  let best = -1;
  for (let token = 0; token < tokens.n; token++) {
    const value = tokens.js[token * mask.length + component]!;
    if (best < 0 || value > (tokens.js[best * mask.length + component] || 0)) best = token;
  }
  return best;
}

function numbers(cell: Cell): Node[] {
  const rows: [string, string, string, string][] = [
    ["js", num(cell.js), "nats", "How far the adapter moves this layer's output: 0 if not at all, at most 0.693."],
    ["js, features permuted", num(cell.jsPermuted), "nats", "The null: the same delta with its features shuffled."],
    ["|delta| / |base|", num(cell.ratio), "", `Length of the change against the output's own: ${num(cell.deltaNorm)} / ${num(cell.baseNorm)}.`],
    ["effective width", num(cell.effectiveWidth), "features", "Over how many features softmax(base) spreads: exp of its entropy."],
  ];
  return [
    el("dl", {}, ...rows.map(([name, value, unit, what]) => el("div", {},
      el("dt", {}, name), el("dd", { class: "value" }, value, " ", el("small", {}, unit)), el("dd", { class: "what" }, what)))),
    ...(cell.without ? [el("p", { class: "note" }, oneLine(cell.without))] : []),
  ];
}

/** A bar to the left or right of the middle, for a value of at most `most`. */
function bar(value: number, most: number): HTMLElement {
  const made = el("i", { class: value < 0 ? "signed minus" : "signed" });
  made.style.setProperty("--share", String(most > 0 ? Math.min(1, Math.abs(value) / most) : 0));
  return made;
}

function directions(app: App, shown: Shown, cell: Cell): Node[] {
  const heading = el("h4", {}, "Directions of delta");
  if (!cell.directions?.length) return [heading, el("p", { class: "note" }, oneLine(cell.withoutDirections ?? "There are none."))];
  const all = cell.directions;
  const most = Math.max(...all.map(({ score }) => Math.abs(score) || 0));
  const strongest = all.findIndex(({ score }) => Math.abs(score) === most);
  const chosen = app.view.direction in all ? app.view.direction : Math.max(0, strongest);
  const rows = all.map(({ score, share }, at) =>
    el("button", {
      class: "direction", "aria-pressed": String(at === chosen), click: () => app.go({ direction: at }, true),
      "aria-label": `Direction ${at + 1}: score ${signed(score)}, ${percent(share)} of delta squared over the run`,
    }, el("span", {}, String(at + 1)), bar(score, most), el("span", {}, signed(score)), el("span", { class: "quiet" }, percent(share))));
  return [
    heading,
    el("p", { class: "quiet" }, "Delta's own singular directions over the run. Bar: this token's coordinate, in units of delta; right: share of |delta|² over the run."),
    el("div", { class: "directions" }, ...rows),
    el("h4", {}, `Where direction ${chosen + 1} acts most`),
    contexts(app, shown, all[chosen]!),
  ];
}

const percent = (share: number) => (Number.isNaN(share) ? "–" : `${(100 * share).toFixed(1)} %`);

function contexts(app: App, { run }: Shown, { top }: Direction): HTMLElement {
  const [line, list] = [el("div"), el("ol", { class: "contexts" })];
  const root = el("div", {}, line, list);
  if (!top.length) return el("p", { class: "note" }, "No token of the run is known for it.");
  void loader(line, list)(app.data.contexts(run, top.map(({ token }) => token)), (found) =>
    list.replaceChildren(...found.map((context, at) => el("li", {},
      el("a", { href: linkTo(app, run.place, context, run.samples.start[context.sample]!), title: `Sample ${oneLine(run.samples.id[context.sample] ?? "")}` },
        el("span", { class: "number" }, signed(top[at]!.score)),
        el("span", { class: "text", dir: "auto" }, oneLine(context.before), el("mark", {}, oneLine(context.text)), oneLine(context.after)))))));
  return root;
}

/** The same view of another token; a pane of another run comes first, so that its samples are listed. */
function linkTo({ view }: App, run: number, { sample, token }: Context, start: number): string {
  const panes = [...view.panes].sort((a, b) => Number(b.run === run) - Number(a.run === run));
  return format({ ...view, panes: view.panes[0]!.run === run ? view.panes : panes, sample, token: -1, offset: token - start });
}

function features(cell: Cell): Node[] {
  if (!cell.features.length) return [];
  const most = Math.max(...cell.features.map(({ delta }) => Math.abs(delta)));
  const head = ["feature", "base", "delta", ""].map((name) => el("th", { scope: "col" }, name));
  return [
    el("h4", {}, "Features that move most"),
    el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...cell.features.map(({ feature, base, delta }) =>
      el("tr", {}, el("td", {}, String(feature)), el("td", {}, num(base)), el("td", {}, signed(delta)), el("td", {}, bar(delta, most)))))),
  ];
}

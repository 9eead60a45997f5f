/** A component at a token: numbers, directions, features, and where else a direction acts. */

import type { Cell, Context, Direction, Run } from "../data/types";
import { tokenLabel, placeOf, type App, type Shown } from "./app";
import { el, loader, oneLine, span } from "./dom";
import { num, signed } from "./scale";
import { format } from "./state";

export function cellPanel(app: App) {
  const title = el("h3");
  const [line, body] = [el("div"), el("div")];
  const root = el("section", { class: "cell", "aria-label": "Component", hidden: true },
    el("header", {}, title, el("button", { class: "plain", "aria-label": "Close", click: () => close() }, "✕")),
    line, body);
  const close = () => app.go({ component: "", direction: -1 }, true);
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
    asked ||= path !== before; // scroll to the panel if its component was chosen here
    before = path;
    if (!path) return;
    if (next === key) return last ? draw(shown, last) : undefined;
    [key, last] = [next, null];
    const where = token < 0 ? "" : `${tokenLabel(tokens, token)}${position < 0 ? ", where its js is largest" : ""}`;
    const name = () => title.replaceChildren(el("b", {}, oneLine(path)), span("quiet", where));
    const missing = component < 0 ? `This run has no component ${oneLine(path)}.` : "This token wasn't captured here.";
    const isThere = component >= 0 && token >= 0;
    const read = () => app.data.cell(run, place, tokens.start + token, component);
    void load(isThere ? read() : Promise.reject(new Error(missing)), (cell) => {
      name();
      draw(shown, (last = cell));
      if (asked && root.getBoundingClientRect().top > 0.75 * innerHeight) root.scrollIntoView();
      asked = false;
    });
    if (body.hidden || !isThere || !body.childNodes.length) name();
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
  const norms = `${num(cell.deltaNorm)} / ${num(cell.baseNorm)}`;
  const rows: [string, string, string, string][] = [
    ["js", num(cell.js), "nats", "How far the adapter moves this layer's output: 0 if not at all, at most 0.693."],
    ["js, features permuted", num(cell.jsPermuted), "nats", "The null: the same delta with its features shuffled."],
    ["|delta| / |base|", num(cell.ratio), "", `Length of the change compared with the output's own: ${norms}.`],
    ["effective width", num(cell.effectiveWidth), "features", "How many features softmax(base) spreads over."],
  ];
  return [
    el("dl", {}, ...rows.map(([name, value, unit, what]) => el("div", {},
      el("dt", {}, name), el("dd", { class: "value" }, value, el("small", {}, ` ${unit}`)),
      el("dd", { class: "what" }, what)))),
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
  const all = cell.directions ?? [];
  if (!all.length) return [heading, el("p", { class: "note" }, oneLine(cell.withoutDirections ?? "This component has no directions."))];
  const most = Math.max(...all.map(({ score }) => Math.abs(score) || 0));
  const strongest = all.findIndex(({ score }) => Math.abs(score) === most);
  const chosen = app.view.direction in all ? app.view.direction : Math.max(0, strongest);
  const rows = all.map(({ score, share }, at) => el("button", {
    class: "direction", "aria-pressed": String(at === chosen), click: () => app.go({ direction: at }, true),
  }, span("", String(at + 1)), bar(score, most), span("", signed(score)), span("quiet", percent(share))));
  return [
    heading,
    el("p", { class: "quiet" }, "Delta's own singular directions over the run: this token's coordinate along each, "
      + "in delta's units, and the direction's share of |delta|² over the run."),
    el("div", { class: "directions", role: "group", "aria-label": "Direction, coordinate, share" }, ...rows),
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
    list.replaceChildren(...found.map((context, at) => el("li", {}, link(app, run, context, signed(top[at]!.score))))));
  return root;
}

/** Link to the same view at another token of `run`, whose pane comes first there so that its samples are listed. */
function link(app: App, run: Run, { sample, token, before, text, after }: Context, score: string): HTMLElement {
  const href = () => {
    const { panes } = app.view, isFirst = panes[0]!.run === run.place;
    const sorted = [...panes].sort((a, b) => Number(b.run === run.place) - Number(a.run === run.place));
    return format({ ...app.view, panes: isFirst ? panes : sorted, sample, token: -1, offset: token - run.samples.start[sample]! });
  };
  const title = `Sample ${oneLine(run.samples.id[sample] ?? "")}`;
  const made: HTMLAnchorElement = el("a", { href: href(), title, click: () => (made.href = href()) }, // order or colours may have changed
    span("number", score),
    el("span", { class: "text", dir: "auto" }, oneLine(before), el("mark", {}, oneLine(text)), oneLine(after)));
  return made;
}

function features(cell: Cell): Node[] {
  if (!cell.features.length) return [];
  const most = Math.max(...cell.features.map(({ delta }) => Math.abs(delta)));
  const head = ["feature", "base", "delta"].map((name) => el("th", { scope: "col" }, name));
  const row = (...cells: Node[]) => el("tr", {}, ...cells);
  const data = (content: Node | string) => el("td", {}, content);
  return [
    el("h4", {}, "Features that move most"),
    el("table", {}, el("thead", {}, row(...head, el("td"))), el("tbody", {}, ...cell.features.map((each) =>
      row(...[String(each.feature), num(each.base), signed(each.delta), bar(each.delta, most)].map(data))))),
  ];
}

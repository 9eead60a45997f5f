/** One run and adapter: the sample's sentence, ribbon and map, and the panel of a component. */

import type { Run } from "../data/types";
import type { App, Shown } from "./app";
import { cellPanel } from "./cell";
import { el, loader, oneLine, span } from "./dom";
import { expertMap } from "./experts";
import { componentMap } from "./map";
import { isWhole, outcome, twin } from "./order";
import { repliesPanel } from "./replies";
import { ribbon } from "./ribbon";
import { num, share, ticks } from "./scale";
import { chosen, grid, sums, type Grid } from "./select";
import { sentence } from "./sentence";
import { MOST_PANES, SHOWS } from "./state";

const NOTHING = { mask: new Uint8Array(), byToken: new Float64Array(), byLayer: new Float64Array() };

export type Pane = ReturnType<typeof pane>;

export function pane(app: App, at: number) {
  const parts = { sentence: sentence(app), ribbon: ribbon(app), map: componentMap(app), cell: cellPanel(app) };
  const experts = expertMap(app);
  const replies = repliesPanel(app);
  const [bar, notes, about] = [el("div", { class: "bar" }), el("div"), el("div", { class: "about" })];
  const legends = { token: legend("token"), layer: legend("layer"), component: legend("component") };
  const [line, body] = [el("div"), el("div", { class: "body" },
    el("div", { class: "reading" }, about, heading("Tokens", legends.token.root), parts.sentence.root,
      heading("Layers by token", legends.layer.root), parts.ribbon.root),
    el("div", { class: "looking" },
      heading("Layers by kind", legends.component.root), parts.map.root, parts.cell.root, experts.root))];
  const root = el("section", { class: "pane", "aria-label": `Pane ${at + 1}` }, bar, notes, replies.root, line, body);
  const load = loader(line, body);
  let [key, filtered, topped] = ["", "", ""];
  let shown: Shown | null = null;
  let opened: { run: Run; grid: Grid } | null = null;

  async function read(): Promise<Shown> {
    const { view } = app;
    const { run: of, adapter: name } = view.panes[at]!;
    const run = await app.run(of);
    if (opened?.run !== run) opened = { run, grid: grid(run.components) };
    const place = name ? run.adapters.findIndex((each) => each.name === name) : 0;
    const adapter = run.adapters[place];
    const there = run.adapters.map((each) => each.name).join(", ");
    if (!adapter) throw new Error(`The run ${run.name} has no adapter ${name}; it has ${there}.`);
    const first = await app.run(view.panes[0]!.run);
    const { n } = first.samples;
    if (view.sample >= n) throw new Error(`The run ${first.name} has ${n} samples, none at place ${view.sample}.`);
    const sample = twin(first, view.sample, run);
    if (sample < 0) throw new Error(`The run ${run.name} doesn't have this sample.`);
    const tokens = await app.data.tokens(run, place, sample);
    return { run, place, adapter, sample, tokens, grid: opened.grid, ...NOTHING };
  }

  function update(): void {
    const of = app.view.panes[at]!, all = JSON.stringify(app.view.panes);
    if (all !== topped) {
      topped = all;
      const drawTop = (run: Run | null) => all === topped && top(run);
      void app.run(of.run).then(drawTop, () => drawTop(null));
    }
    const next = JSON.stringify([of, app.view.panes[0], app.view.sample]);
    if (next === key) return draw();
    key = next;
    shown = null;
    void load(read(), (found) => {
      [shown, filtered] = [found, "\0"];
      if (!at) app.positions = found.tokens.position;
      draw();
    });
  }

  /** Draw the choice of run and adapter, and notices about the run. */
  function top(run: Run | null): void {
    const { panes } = app.view;
    const go = async (next: App["view"]["panes"]) => {
      const [from, to] = [panes, next].map((each) => app.run(each[0]!.run));
      // the sample stays if another run comes first
      const { sample } = app.view;
      const same = await Promise.all([from, to]).then(([a, b]) => twin(a!, sample, b!), () => sample);
      app.go({ panes: next, direction: -1, ...(same < 0 ? { sample: 0, token: -1 } : { sample: same }) }, true);
    };
    const change = (to: object) => go(panes.map((each, i) => (i === at ? { ...each, ...to } : each)));
    const close = () => go(panes.filter((_, i) => i !== at));
    const runs = app.manifest.runs.map(({ name }, i) => [String(i), name] as const);
    const adapters = run?.adapters.map(({ name }) => [name, name] as const) ?? [];
    const isRoom = !at && panes.length < MOST_PANES && runs.length + adapters.length > 2;
    const held = bar.querySelector<HTMLElement>(":focus")?.getAttribute("name");
    bar.replaceChildren(
      choice("Run", runs, String(panes[at]!.run), (value) => change({ run: Number(value), adapter: "" })),
      choice("Adapter", adapters, panes[at]!.adapter || (adapters[0]?.[0] ?? ""), (adapter) => change({ adapter })),
      panes.length > 1 ? el("button", { class: "plain", name: "close", "aria-label": "Close this pane", click: close }, "✕") : "",
      isRoom ? el("button", { class: "compare", name: "compare", click: () => go([...panes, another(run)]) }, "Compare") : "");
    if (held) bar.querySelector<HTMLElement>(`[name="${held}"]`)?.focus();
    replies.update(run, adapters.findIndex(([name]) => name === (panes[at]!.adapter || adapters[0]![0])));
    const rows = `${run?.nCommittedRows} of ${run?.nRows} rows`;
    notes.replaceChildren(...[
      run?.finished === false && `This run isn't finished: ${rows} are committed. Incomplete samples are marked.`,
      run && run.nMissingSamples !== null &&
        `This run was copied from an unfinished run: ${run.nMissingSamples} of its samples weren't captured yet and are missing here.`,
      run?.states === "none" && "This run keeps no states: there are no directions and no features.",
      run?.states === "sample" && "This run keeps the states of some rows only; features are shown for their tokens.",
    ].flatMap((text) => (text ? [el("p", { class: "notice" }, text)] : [])));
  }

  /** The next adapter that no pane shows, else the next run. */
  function another(run: Run | null): { run: number; adapter: string } {
    const { panes } = app.view;
    const isShown = (name: string, i: number) =>
      panes.some((each) => each.run === run?.place && (each.adapter ? each.adapter === name : !i));
    const adapter = run?.adapters.find(({ name }, i) => !isShown(name, i));
    const other = app.manifest.runs.findIndex((_, i) => !panes.some((each) => each.run === i));
    return adapter ? { run: run!.place, adapter: adapter.name } : { run: Math.max(0, other), adapter: "" };
  }

  function draw(): void {
    if (!shown) return;
    const { tokens, run, sample, adapter } = shown;
    const { offset } = app.view;
    if (!at && offset >= 0) return app.go({ offset: -1, token: tokens.position[offset] ?? -1 });
    if (filtered !== app.view.filter) {
      filtered = app.view.filter;
      const mask = chosen(run.components, filtered);
      shown = { ...shown, mask, ...sums(tokens.js, tokens.n, shown.grid, mask) };
      facts(about, run, sample, adapter.miub[sample]!, tokens.n);
    }
    parts.sentence.update(shown);
    parts.ribbon.update(shown);
    parts.map.update(shown);
    parts.cell.update(shown);
    experts.update(adapter.experts);
    legends.token.update(app, app.scale.token);
    legends.layer.update(app, app.scale.layer);
    legends.component.update(app, app.scale.js);
  }

  const paint = () => [parts.sentence, parts.ribbon, parts.map].forEach((part) => shown && part.paint());

  return { root, update, paint };
}

const heading = (text: string, legend: HTMLElement) => el("header", { class: "part" }, el("h2", {}, text), legend);

function facts(root: HTMLElement, run: Run, sample: number, miub: number, n: number): void {
  const { id, dataset, split, prompt, length, ce, baseCe } = run.samples;
  const is = outcome(run.samples, sample);
  const of = [dataset, split, prompt].map((column) => oneLine(column[sample]!)).filter(Boolean).join(" · ");
  const before = Number.isNaN(baseCe[sample]!) ? "" : `${num(baseCe[sample]!)} → `;
  const numbers: [string, string][] = [
    ["MIUB", `${num(miub)} nats`],
    ["CE", Number.isNaN(ce[sample]!) ? "" : `${before}${num(ce[sample]!)} nats a token`],
    ["answer", is === "all" ? "" : SHOWS[is]],
    ["tokens", n === length[sample] ? String(n) : `${n} of ${length[sample]}`],
  ];
  root.replaceChildren(el("h1", {}, oneLine(id[sample]!)), el("p", { class: "quiet" }, of),
    el("ul", {}, ...numbers.filter(([, value]) => value)
      .map(([name, value]) => el("li", {}, span("quiet", name), ` ${value}`))));
  if (run.finished || isWhole(run, sample)) return;
  root.append(el("p", { class: "notice" }, "This sample is incomplete: rows that aren't committed have no numbers."));
}

function choice(
  label: string, options: (readonly [string, string])[], value: string, change: (value: string) => void,
): HTMLElement {
  if (!options.length) return el("span");
  const select = el("select", { name: label, change: () => change(select.value) },
    ...options.map(([of, text]) => el("option", { value: of }, oneLine(text))));
  select.value = value;
  const shown = options.length > 1 ? select : oneLine(options[0]![1]);
  return el("label", { class: "one" }, span("quiet", label), " ", shown);
}

/** The colour scale with ticks in nats, even in the square root of js. */
function legend(of: string) {
  const [colors, marks] = [el("i"), el("span", { class: "marks" })];
  const title = "Colour is even in the square root of js, from 0 to a high quantile over the run; all panes share it.";
  const root = el("span", { class: "legend", title },
    span("quiet", `js of a ${of}, nats`), span("scale", colors, marks));
  let now = "";
  return { root, update({ ramp }: App, top: number): void {
    if (now === `${top}${ramp.fill[255]}`) return;
    now = `${top}${ramp.fill[255]}`;
    colors.style.background = `linear-gradient(to right, ${ramp.fill.filter((_, i) => i % 15 === 0).join(", ")})`;
    marks.replaceChildren(...ticks(top).map((value) => {
      const mark = span("", value && value === top ? `${num(value, 2)}+` : num(value, 1));
      mark.style.left = `${100 * share(value, top)}%`;
      return mark;
    }));
  } };
}

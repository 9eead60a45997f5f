/** The page: what its parts share, the address, and the keyboard. */

import { data } from "./data";
import type { Run } from "./data/types";
import { placeOf, type App } from "./ui/app";
import { alertLine, eachFrame, el, oneLine, span } from "./ui/dom";
import { sampleList } from "./ui/list";
import { pane, type Pane } from "./ui/pane";
import { PALETTE, ramp, topOf } from "./ui/scale";
import { counts } from "./ui/select";
import { format, NO_LAYER, parse, type View } from "./ui/state";

const KEYS = [
  ["j  k", "next, previous sample; arrows in the list"], ["←  →", "previous, next token; kinds, in the map"],
  ["↑  ↓", "layers, in the ribbon and the map"], ["Enter", "open the component of the cell"],
  ["/", "search samples"], ["f", "choose components"],
  ["Esc", "close the component, then deselect the token"], ["?", "these keys"],
] as const;
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function start(manifest: App["manifest"]): void {
  const runs = new Map<number, Promise<Run>>();
  const opened = new Map<number, Run>();
  const panes: Pane[] = [];
  const app: App = {
    data, manifest, view: parse(location.hash), hovered: { token: -1, layer: NO_LAYER }, positions: new Int32Array(),
    scale: { js: 0, layer: 0, token: 0 }, ramp: ramp("light"), palette: PALETTE.light,
    run(place) {
      const known = runs.get(place);
      if (known) return known;
      const missing = new Error(`There is no run at place ${place} of this page.`);
      const run = place < manifest.runs.length ? data.open(place) : Promise.reject(missing);
      runs.set(place, run);
      run.then((found) => { opened.set(place, found); refresh(); }, () => runs.delete(place));
      return run;
    },
    go(change, step = false) {
      app.view = { ...app.view, ...change };
      if (step) write("pushState");
      else later ??= setTimeout(() => write("replaceState"), 150); // browsers refuse a hundred a second
      refresh();
    },
    hover(token, layer) {
      if (token === app.hovered.token && layer === app.hovered.layer) return;
      app.hovered = { token, layer };
      paint();
    },
  };
  let later: ReturnType<typeof setTimeout> | undefined;
  const write = (how: "pushState" | "replaceState") => {
    clearTimeout(later);
    later = undefined;
    const address = format(app.view);
    if (address !== (location.hash || "#")) history[how](null, "", address);
  };
  const paint = eachFrame(() => panes.forEach((each) => each.paint()));

  const list = sampleList(app);
  const filter = el("input", {
    id: "filter", type: "search", list: "patterns", placeholder: "all components, or *.q_proj", spellcheck: "false",
    "aria-label": "Components to look at, as a pattern", autocomplete: "off",
    input: () => app.go({ filter: filter.value }),
  });
  const [patterns, many] = [el("datalist", { id: "patterns" }), el("span", { class: "quiet", role: "status" })];
  const keys = el("dialog", { "aria-label": "Keys" }, el("h2", {}, "Keys"),
    el("dl", {}, ...KEYS.map(([key, does]) =>
      el("div", {}, el("dt", {}, ...key.split("  ").map((each) => el("kbd", {}, each))), el("dd", {}, does)))),
    el("form", { method: "dialog" }, el("button", {}, "Close")));
  const button = (text: string, title: string, click: () => void) =>
    el("button", { class: "plain", "aria-label": title, title, click }, text);
  const [model, main] = [el("span", { class: "model quiet" }), el("main")];
  const report = el("a", { title: "The report on this run and adapter", hidden: true }, "Report");
  document.body.append(
    el("header", { id: "top" },
      el("button", { class: "drawer", click: () => document.body.classList.toggle("listing") }, "Samples"),
      el("strong", {}, "lorascope"), model,
      el("label", { class: "filter" }, span("quiet", "Components"), filter, patterns, many),
      report,
      button("◐", "Light or dark", () => app.go({ theme: isDark() ? "light" : "dark" })),
      button("?", "Keys", () => keys.showModal())),
    list.root, main, keys);

  const isDark = () => (app.view.theme ? app.view.theme === "dark" : systemDark.matches);

  function refresh(): void {
    const { view } = app;
    const name = isDark() ? "dark" : "light";
    document.documentElement.dataset.theme = name;
    if (app.palette !== PALETTE[name]) [app.palette, app.ramp] = [PALETTE[name], ramp(name)];
    panes.splice(view.panes.length).forEach(({ root }) => root.remove());
    for (let at = panes.length; at < view.panes.length; at++) main.append((panes[at] = pane(app, at)).root);
    const adapters = view.panes.map(({ run, adapter }) =>
      opened.get(run)?.adapters.find(({ name }, i) => (adapter ? name === adapter : !i)));
    const most = (of: "js" | "token") => Math.max(0, ...adapters.map((each) => each?.scale[of] ?? 0));
    const [all, runs] = [{ js: most("js"), token: most("token") }, view.panes.map(({ run }) => opened.get(run))];
    const n = runs.flatMap((run) => (run ? [counts(run.components, view.filter)] : []));
    const top = (of: "n" | "inLayer") => Math.max(0, ...n.map((each) => topOf(all, each[of], each.all)));
    app.scale = { js: all.js, layer: top("inLayer"), token: top("n") };
    const [run, adapter] = [opened.get(view.panes[0]!.run), adapters[0]];
    list.root.inert = !run || !adapter; // it may still show another run
    if (run && adapter) {
      list.update({ run, adapter });
      about(run);
      const reports = manifest.runs[run.place]?.reports ?? {};
      report.hidden = !Object.hasOwn(reports, adapter.name); // an adapter may be named constructor
      if (!report.hidden) report.href = reports[adapter.name]!;
    }
    panes.forEach((each) => each.update());
  }

  function about(run: Run): void {
    model.textContent = oneLine(run.model.split("/").slice(-2).join("/"));
    model.title = oneLine(run.model);
    document.title = `${oneLine(run.samples.id[app.view.sample] ?? run.name)} · lorascope`;
    if (filter.value !== app.view.filter) filter.value = app.view.filter;
    const { n, all } = counts(run.components, app.view.filter);
    many.textContent = n === all ? `all ${all}` : `${n} of ${all}`;
    filter.setAttribute("aria-invalid", String(!n));
    if (patterns.dataset.run !== String(run.place)) {
      patterns.dataset.run = String(run.place);
      const kinds = [...new Set(run.components.map(({ kind }) => `*.${kind}`))];
      patterns.replaceChildren(...kinds.map((value) => el("option", { value })));
    }
  }

  addEventListener("popstate", () => {
    clearTimeout(later);
    later = undefined;
    app.view = parse(location.hash);
    refresh();
  });
  systemDark.addEventListener("change", refresh);
  addEventListener("keydown", (event) => {
    if (keys.open || event.ctrlKey || event.metaKey || event.altKey) return;
    app.hover(-1, NO_LAYER); // with keys, the chosen token counts, not where the mouse was left
    const inside = event.target as HTMLElement;
    if (event.key === "Escape") return escape(inside);
    if (inside.matches("input, select, textarea")) return;
    const does: Record<string, () => void> = {
      "j": () => list.step(1), "k": () => list.step(-1), "ArrowLeft": () => move(-1), "ArrowRight": () => move(1),
      "f": () => filter.focus(), "?": () => keys.showModal(),
      "/": () => { document.body.classList.add("listing"); list.focusSearch(); },
    };
    if (event.defaultPrevented || !does[event.key]) return;
    event.preventDefault();
    does[event.key]!();
  });

  function escape(inside: HTMLElement): void {
    if (inside.matches("input")) return inside.blur();
    if (document.body.classList.contains("listing")) document.body.classList.remove("listing");
    else if (app.view.component) app.go({ component: "", direction: -1 }, true);
    else app.go({ token: -1, layer: NO_LAYER, offset: -1 } satisfies Partial<View>, true);
  }

  /** Select the captured token `by` places further. */
  function move(by: number): void {
    const now = placeOf(app.positions, app.view.token);
    const token = app.positions[now < 0 ? 0 : Math.max(0, Math.min(app.positions.length - 1, now + by))];
    if (token !== undefined) app.go({ token, offset: -1 });
  }

  refresh();
}

data.manifest().then(start).catch((error: unknown) => document.body.append(el("main", {}, alertLine(error))));

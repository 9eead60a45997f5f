/** The list of samples: search, order, and rows, which exist only while they are visible. */

import type { AdapterView, Run } from "../data/types";
import type { App } from "./app";
import { alertLine, eachFrame, el, oneLine, span } from "./dom";
import { ceChange, isWhole, listed, outcome } from "./order";
import { num, signed } from "./scale";
import { SHOWS, SORTS, type Show, type Sort } from "./state";

const ROW = 52;
const SIGNS: Record<Show, string> = {
  "all": "", "became-right": "✗→✓", "became-wrong": "✓→✗", "stayed-right": "✓", "stayed-wrong": "✗",
  "right": "✓", "wrong": "✗",
};
const SETTLED = 300;

export function sampleList(app: App) {
  const [label, title] = ["Search text and ids", "Change of cross-entropy, nats a token"];
  const search = el("input", { type: "search", placeholder: `${label}  /`, "aria-label": label });
  const sort = chooser("Order", SORTS, (value) => app.go({ sort: value as Sort }, true));
  const show = chooser("Show", SHOWS, (value) => app.go({ show: value as Show }, true));
  const count = el("p", { role: "status" });
  const rows = el("div", { class: "rows", role: "presentation" });
  const box = el("div", { class: "box", role: "listbox", tabindex: 0, "aria-label": "Samples" }, rows);
  const root = el("aside", { id: "list", "aria-label": "Samples" },
    el("div", { class: "tools" }, search, sort, show, span("count", count, span("", "MIUB, nats"))), box);

  let shown: { run: Run; adapter: AdapterView } | null = null;
  let [order, several, most, key, at] = [[] as number[], [] as ("dataset" | "split" | "prompt")[], 0, "", -1];
  let inText = { of: "", hits: new Set<number>(), message: "" as string | Node };
  let stop = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;

  search.addEventListener("input", () => app.go({ search: search.value }));
  const draw = eachFrame(() => {
    if (!shown) return;
    rows.style.height = `${order.length * ROW}px`;
    const first = Math.max(0, Math.floor(box.scrollTop / ROW) - 4);
    const last = Math.min(order.length, Math.ceil((box.scrollTop + box.clientHeight) / ROW) + 4);
    rows.replaceChildren(...Array.from({ length: Math.max(0, last - first) }, (_, i) => row(first + i)));
  });
  box.addEventListener("scroll", draw);
  new ResizeObserver(draw).observe(box);
  rows.addEventListener("click", (event) => {
    const place = (event.target as Element).closest<HTMLElement>("[data-sample]")?.dataset.sample;
    if (place) choose(Number(place));
  });
  box.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -Infinity, End: Infinity }[event.key];
    if (!by) return;
    event.preventDefault();
    step(by);
  });

  function row(place: number): HTMLElement {
    const { run, adapter } = shown!;
    const sample = order[place]!;
    const [is, change, miub] = [outcome(run.samples, sample), ceChange(run.samples, sample), adapter.miub[sample]!];
    const whole = run.finished || isWhole(run, sample);
    const bar = el("i", { class: "bar" });
    bar.style.setProperty("--share", String(most > 0 && miub > 0 ? miub / most : 0));
    const made = el("div", {
      class: "row", role: "option", id: `sample-${sample}`, "data-sample": sample,
      "aria-selected": String(sample === app.view.sample), "aria-setsize": order.length, "aria-posinset": place + 1,
    },
      span("id", oneLine(run.samples.id[sample]!)),
      el("span", { class: "number", title: "MIUB, nats" }, num(miub)), bar,
      span("about",
        !whole && el("b", { title: "Not every row of it is committed" }, "incomplete"),
        is !== "all" && span(is.endsWith("right") ? "good" : "bad", `${SIGNS[is]} ${is.replace("-", " ")}`),
        ...several.map((name) => span("", oneLine(run.samples[name][sample]!)))),
      !Number.isNaN(change) && el("span", { class: "number quiet", title }, `CE ${signed(change)}`));
    made.style.top = `${place * ROW}px`;
    return made;
  }

  function choose(sample: number): void {
    document.body.classList.remove("listing");
    app.go({ sample, token: -1, offset: -1 }, true);
  }

  function step(by: number): void {
    const now = order.indexOf(app.view.sample);
    const next = order[Math.max(0, Math.min(order.length - 1, now + by))];
    if (next !== undefined && next !== app.view.sample) choose(next);
  }

  /** Search the texts for the words, once typing has stopped. */
  function readTexts(run: Run): void {
    const words = app.view.search.trim();
    const of = words && `${run.place} ${words}`;
    if (inText.of === of) return;
    stop.abort();
    clearTimeout(timer);
    inText = { of, hits: new Set(), message: words && run.hasText ? " · reading texts" : "" };
    if (!words || !run.hasText) return;
    const mine = inText;
    const signal = (stop = new AbortController()).signal;
    const settle = (message: string | Node) => {
      if (mine !== inText) return;
      mine.message = message;
      update();
    };
    timer = setTimeout(() => {
      const progress = (share: number) => mine.message !== "" && settle(` · reading texts: ${Math.round(share * 100)} %`);
      app.data.search(run, words, eachFrame(progress), signal)
        .then((hits) => { mine.hits = hits; settle(""); }, (error) => signal.aborted || settle(alertLine(error)));
    }, SETTLED);
  }

  /** List the samples of a run again; scroll to the chosen one if it was chosen elsewhere. */
  function update(next = shown): void {
    if (!next) return;
    const { view } = app;
    const isSeveral = (name: (typeof several)[0]) => new Set(next.run.samples[name]).size > 1;
    if (shown?.run !== next.run) several = (["dataset", "split", "prompt"] as const).filter(isSeveral);
    shown = next;
    if (search.value !== view.search) search.value = view.search;
    [sort.querySelector("select")!.value, show.querySelector("select")!.value] = [view.sort, view.show];
    show.hidden = !next.run.samples.correct.some((each) => each >= 0);
    readTexts(next.run);
    const nextKey = [next.run.place, next.adapter.name, view.sort, view.show, view.search, inText.hits.size].join("\n");
    if (key !== nextKey) {
      key = nextKey;
      order = listed(next.run, next.adapter.miub, view, inText.hits);
      most = next.adapter.miub.reduce((top, each) => (each > top ? each : top), 0);
      at = -1;
    }
    const all = next.run.samples.n;
    const of = order.length === all ? "" : `${order.length.toLocaleString("en")} of `;
    count.replaceChildren(`${of}${all.toLocaleString("en")} samples`, inText.message);
    const place = order.indexOf(view.sample);
    box.setAttribute("aria-activedescendant", place < 0 ? "" : `sample-${view.sample}`);
    rows.style.height = `${order.length * ROW}px`;
    if (at !== view.sample && place >= 0) {
      at = view.sample;
      box.scrollTop = Math.max((place + 1) * ROW - box.clientHeight, Math.min(box.scrollTop, place * ROW));
    }
    draw();
  }

  return { root, update, step, focusSearch: () => search.focus() };
}

function chooser(label: string, options: Record<string, string>, change: (value: string) => void): HTMLElement {
  const select = el("select", { "aria-label": label, title: label, change: () => change(select.value) },
    ...Object.entries(options).map(([value, text]) => el("option", { value }, text)));
  return el("label", {}, span("quiet", label), select);
}

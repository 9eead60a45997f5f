/** Replies to short prompts, without and with the adapter; they are read when they are first unfolded. */

import type { Reply, Run } from "../data/types";
import type { App } from "./app";
import { cut, el, loader, span, visible } from "./dom";

const NOTHING = "∎"; // where a reply ends and the other one goes on

/** A reply up to the word at which it parts from another one, this word, and the rest. */
export function parting(text: string, other: string): [string, string, string] {
  if (text === other) return [text, "", ""];
  let n = 0;
  while (n < text.length && text[n] === other[n]) n++;
  const isBetween = [text, other].every((each) => /^(\s|$)/.test(each.slice(n))); // whole words are equal so far
  const start = isBetween ? n + /^\s*/.exec(text.slice(n))![0].length : text.slice(0, n).search(/\S*$/);
  const word = /^\S*/.exec(text.slice(start))![0];
  return [text.slice(0, start), word || NOTHING, text.slice(start + word.length)];
}

export function repliesPanel(app: App) {
  const [line, body, summary] = [el("div"), el("div"), el("summary")];
  const root = el("details", { class: "replies", hidden: true, toggle: read }, summary, line, body);
  const load = loader(line, body);
  let of: { run: Run; place: number } | null = null;
  let isRead = false;

  function read(): void {
    if (!root.open || isRead || !of) return;
    isRead = true;
    void load(app.data.replies(of.run, of.place), (replies) => body.replaceChildren(table(replies)));
  }

  function update(run: Run | null, place: number): void {
    const n = run?.adapters[place]?.nReplies ?? 0;
    root.hidden = !n;
    if (!run || (of?.run === run && of.place === place)) return;
    [of, isRead] = [{ run, place }, false];
    summary.textContent = `What it says: replies to ${n / 4} short prompts`;
    body.replaceChildren();
    read();
  }

  return { root, update };
}

function table(replies: Reply[]): HTMLElement {
  const head = ["prompt", "without the adapter", "with it"].map((text) => el("th", {}, text));
  const rows = replies.map(({ prompt, texts }) => {
    const [base, adapted, ...amplified] = texts as [string, string, ...string[]];
    const more = el("details", {}, el("summary", { class: "quiet" }, "at 1.5 and 2 times its scale"),
      ...amplified.map((text) => el("p", {}, ...marked(text, base))));
    return el("tr", {}, el("th", {}, visible(cut(prompt))), el("td", {}, ...marked(base, adapted)),
      el("td", {}, ...marked(adapted, base), more));
  });
  return el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}

function marked(text: string, other: string): HTMLElement[] {
  const [same, word, rest] = parting(cut(text), cut(other)).map(visible) as [string, string, string];
  return [span("quiet", same), ...(word ? [el("mark", {}, word), span("", rest)] : [])];
}

/** The sample as running text, each token tinted by its js. */

import { tokenLabel, placeOf, roleOf, ANSWER_ROLES, textOf, jsText, type App, type Shown } from "./app";
import { el, visible } from "./dom";
import { num, step } from "./scale";
import { NO_LAYER } from "./state";

/** Number of tokens that are laid out first, enough to fill the box; the others follow once these are visible. */
const N_FIRST = 200;

export function sentence(app: App) {
  const root = el("div", {
    class: "sentence", role: "listbox", "aria-orientation": "horizontal", "aria-label": "Tokens", dir: "auto",
  });
  let shown: Shown | null = null;
  let spans: HTMLElement[] = [];
  let addUpTo = (_stop: number) => {};
  let tinted = { top: 0, ramp: app.ramp };
  let marked: [HTMLElement | undefined, HTMLElement | undefined] = [undefined, undefined];

  const tokenOf = (event: Event) => {
    const at = (event.target as Element).closest<HTMLElement>("[data-at]")?.dataset.at;
    return at ? shown!.tokens.position[Number(at)]! : -1;
  };
  const choose = (event: Event) => {
    const token = tokenOf(event);
    if (token >= 0) app.go({ token, offset: -1 }, true);
  };
  root.addEventListener("click", choose);
  root.addEventListener("pointerover", (event) => event.pointerType === "mouse" && app.hover(tokenOf(event), NO_LAYER));
  root.addEventListener("pointerleave", () => app.hover(-1, NO_LAYER));
  root.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" && event.key !== " ") return;
    event.preventDefault();
    choose(event);
  });

  /** Show other tokens, the first `N_FIRST` at once. */
  function fill({ tokens, run, sample }: Shown): void {
    const [several, seen] = [new Set(tokens.role).size > 1, new Set<number>()];
    let [group, expected] = [root as HTMLElement, 0];
    const add = (at: number) => {
      const role = tokens.role[at]!;
      if (!at || role !== tokens.role[at - 1]) {
        const name = roleOf(tokens, at);
        const isTold = ANSWER_ROLES.has(role) || role > 4 || (several && !seen.has(role));
        group = el("span", { role: "group", class: `role ${name}`, "aria-label": name },
          isTold && el("span", { class: "tag", "aria-hidden": "true" }, name));
        root.append(group);
        seen.add(role);
      }
      const missing = tokens.position[at]! - expected;
      // a space before a word and the breaks after it aren't tinted: tints would hang over the ends of lines
      const whole = textOf(tokens, at), start = /^ \S/.test(whole) ? 1 : 0;
      let end = whole.length;
      while (whole[end - 1] === "\n") end--;
      const breaks = whole.slice(end);
      const span = el("span", { role: "option", class: "t", "data-at": at, tabindex: -1 },
        ...pieces(whole.slice(start, end)), ...[...breaks].map(() => el("span", { class: "space", "data-sign": "↵" })));
      spans.push(span);
      group.append(...(missing > 0 ? [gap(missing)] : []), whole.slice(0, start), span, breaks);
      expected = tokens.position[at]! + 1;
      const left = run.samples.length[sample]! - expected;
      if (at === tokens.n - 1 && left > 0) root.append(gap(left));
    };
    addUpTo = (stop) => {
      while (spans.length < stop) add(spans.length);
      root.setAttribute("aria-busy", String(stop < tokens.n));
    };
    [spans, marked] = [[], [undefined, undefined]];
    root.replaceChildren(...(tokens.n ? [] : [el("p", { class: "quiet" }, "No token of this sample was captured.")]));
    root.scrollTop = 0;
    addUpTo(Math.min(tokens.n, N_FIRST));
    const others = () => shown?.tokens === tokens && addOthers();
    if (tokens.n > N_FIRST) requestAnimationFrame(() => requestAnimationFrame(others));
  }

  function addOthers(): void {
    const first = spans.length;
    addUpTo(shown!.tokens.n);
    tint(first);
  }

  function update(next: Shown): void {
    if (shown?.tokens !== next.tokens) fill(next);
    const { byToken } = next, top = app.scale.token;
    const isTinted = shown?.byToken === byToken && top === tinted.top && app.ramp === tinted.ramp;
    [shown, tinted] = [next, { top, ramp: app.ramp }];
    if (isTinted) return paint();
    tint(0);
    paint();
  }

  function tint(first: number): void {
    const { tokens, byToken } = shown!;
    for (let at = first; at < spans.length; at++) {
      const [span, shade] = [spans[at]!, step(byToken[at]!, tinted.top)];
      span.style.backgroundColor = shade < 0 ? "" : tinted.ramp.fill[shade]!;
      span.style.color = shade < 0 ? "" : tinted.ramp.ink[shade]!;
      span.classList.toggle("unknown", shade < 0);
      const label = `${tokenLabel(tokens, at)}: ${jsText(byToken[at]!)}, nll ${num(tokens.nll[at]!)} nats`;
      span.title = label;
      span.setAttribute("aria-label", label);
    }
  }

  /** Mark the chosen token and the one under the cursor. */
  function paint(): void {
    if (!shown) return;
    const { position } = shown.tokens;
    if (placeOf(position, app.view.token) >= spans.length) addOthers();
    const [chosen, over] = [spans[placeOf(position, app.view.token)], spans[placeOf(position, app.hovered.token)]];
    const stop = chosen ?? spans[0];
    const held = marked[0] ?? spans[0];
    held?.setAttribute("tabindex", "-1");
    stop?.setAttribute("tabindex", "0");
    marked[0]?.setAttribute("aria-selected", "false");
    marked[1]?.classList.remove("over");
    chosen?.setAttribute("aria-selected", "true");
    over?.classList.add("over");
    if (chosen && chosen !== marked[0]) {
      if (root.contains(document.activeElement)) chosen.focus({ preventScroll: true });
      const [box, place] = [root.getBoundingClientRect(), chosen.getBoundingClientRect()];
      if (place.top < box.top || place.bottom > box.bottom) root.scrollTop += place.top - box.top - box.height / 2;
    }
    marked = [chosen, over];
  }

  return { root, update, paint };
}

const gap = (n: number) => el("span", { class: "gap", role: "option", "aria-disabled": "true" },
  `${n.toLocaleString("en")} token${n > 1 ? "s" : ""} not captured`);

/** Text with line breaks, tabs and runs of spaces as signs; copying it still gives the original characters. */
function pieces(text: string): (Node | string)[] {
  const sign = (piece: string) => ({ "\n": "↵", "\t": "⇥" })[piece] ?? "·";
  const marked = (piece: string) => el("span", { class: "space", "data-sign": sign(piece) }, piece);
  return visible(text).split(/(\n|\t|^ $| (?= )|(?<= ) )/).filter(Boolean)
    .map((piece) => (/^\s$/.test(piece) ? marked(piece) : piece));
}

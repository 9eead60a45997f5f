/** Elements, text that can be seen, and parts that load. Text from runs becomes text nodes and attributes only. */

type Child = Node | string | null | undefined | false;
type Props = Record<string, string | number | boolean | null | undefined | ((event: never) => void)>;

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K, props: Props = {}, ...children: Child[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (typeof value === "function") made.addEventListener(key, value as EventListener);
    else if (value !== false && value != null) made.setAttribute(key, value === true ? "" : String(value));
  }
  made.append(...children.filter((child): child is Node | string => child != null && child !== false));
  return made;
}

export const span = (name: string, ...children: Child[]) => el("span", { class: name }, ...children);

const SIGNS: [RegExp, (letter: string) => string][] = [
  [/[\0-\x08\x0b-\x1f]/g, (letter) => String.fromCharCode(0x2400 + letter.charCodeAt(0))],
  [/[\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (letter) => `⟨${letter.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`],
];

/** Shows control characters, and those that change the direction of writing, as signs; line breaks and tabs stay. */
export const visible = (text: string) => SIGNS.reduce((now, [of, sign]) => now.replace(of, sign), text);

const LONGEST = 4096;
/** Cuts a text that is too long to read: a megabyte of it, or of line breaks, takes minutes to lay out. */
export const cut = (text: string) => (text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text);

/** A text on one line, for labels. */
export const oneLine = (text: string) => visible(cut(text)).replace(/\n/g, "↵").replace(/\t/g, "⇥");

export const alertLine = (error: unknown) =>
  el("p", { role: "alert", class: "alert" }, visible(cut(error instanceof Error ? error.message : String(error))));

const PATIENCE = 150;

/**
 * Draws a promise's value in `body`, unless something else was loaded since; `body` is busy meanwhile. Its old content
 * stays for 150 ms, then `line` says that something loads; an error is written there, in one line.
 */
export function loader(line: HTMLElement, body: HTMLElement) {
  let turn = 0;
  return async function load<T>(promise: Promise<T>, draw: (value: T) => void): Promise<void> {
    const mine = ++turn;
    const say = (content: Child) => {
      line.replaceChildren(...(content ? [content] : []));
      body.hidden = !!content;
    };
    const waiting = el("p", { class: "loading", role: "status" }, "Loading…");
    const timer = setTimeout(() => mine === turn && say(waiting), PATIENCE);
    body.setAttribute("aria-busy", "true");
    try {
      const value = await promise;
      if (mine !== turn) return;
      say(null);
      draw(value);
    } catch (error) {
      if (mine === turn) say(alertLine(error));
    } finally {
      clearTimeout(timer);
      if (mine === turn) body.removeAttribute("aria-busy");
    }
  };
}

/** A function that calls `call` at most once per frame, with the latest arguments. */
export function eachFrame<A extends unknown[]>(call: (...given: A) => void): (...given: A) => void {
  let latest: A | null = null;
  return (...given) => {
    if (!latest) requestAnimationFrame(() => { const now = latest!; latest = null; call(...now); });
    latest = given;
  };
}

export const heatMap = (label: string) =>
  el("canvas", { tabindex: 0, role: "application", "aria-roledescription": "heat map", "aria-label": label });

/** Resizes a canvas to CSS pixels at the screen's own resolution, and clears it. */
export function sized(canvas: HTMLCanvasElement, width: number, height: number): CanvasRenderingContext2D {
  const dense = window.devicePixelRatio || 1;
  const [wide, high] = [Math.round(width * dense), Math.round(height * dense)];
  if (canvas.width !== wide || canvas.height !== high) [canvas.width, canvas.height] = [wide, high];
  [canvas.style.width, canvas.style.height] = [`${width}px`, `${height}px`];
  const context = canvas.getContext("2d")!;
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  return context;
}

/** Draws an outline that is visible on every colour: ink within a line of the page's colour. */
export function outline(
  context: CanvasRenderingContext2D, [x, y, width, height]: [number, number, number, number],
  { ink, page }: { ink: string; page: string }, weight = 2,
): void {
  for (const [color, line] of [[page, weight + 2], [ink, weight]] as const) {
    context.strokeStyle = color;
    context.lineWidth = line;
    context.strokeRect(x, y, width, height);
  }
}

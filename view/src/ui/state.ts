/** The view: what the page shows, as its address says. */

export const SORTS = {
  "run": "order in the run",
  "-miub": "MIUB, largest first",
  "miub": "MIUB, smallest first",
  "-ce": "CE, most raised first",
  "ce": "CE, most lowered first",
  "outcome": "right or wrong",
} as const;
export const SHOWS = {
  "all": "all",
  "became-right": "became right",
  "became-wrong": "became wrong",
  "stayed-right": "stayed right",
  "stayed-wrong": "stayed wrong",
  "right": "right with adapter",
  "wrong": "wrong with adapter",
} as const;
export type Sort = keyof typeof SORTS;
export type Show = keyof typeof SHOWS;
export type Theme = "" | "light" | "dark";

export interface View {
  /** Run (its place in the manifest) and adapter (its name; empty for the first) of each pane. */
  panes: { run: number; adapter: string }[];
  /** Place in the first pane's run. */
  sample: number;
  /** Position in the sample's sequence, or -1. */
  token: number;
  /** Index among the sample's captured tokens if the position isn't known yet, or -1. */
  offset: number;
  /** Or `NO_LAYER`. */
  layer: number;
  /** Path, or empty. */
  component: string;
  /** -1 for the one that acts most. */
  direction: number;
  filter: string;
  sort: Sort;
  show: Show;
  search: string;
  theme: Theme;
}

export const MOST_PANES = 4;
/** No layer is chosen; -1 is the layer of components outside all layers. */
export const NO_LAYER = -2;
const LONGEST = 2 ** 20; // a filter may name thousands of components
const NOTHING: View = {
  panes: [{ run: 0, adapter: "" }], sample: 0, token: -1, offset: -1, layer: NO_LAYER, component: "", direction: -1,
  filter: "", sort: "run", show: "all", search: "", theme: "",
};

/** The view of an address; parts that can't be understood are ignored. */
export function parse(hash: string): View {
  const given = new Map<string, string>();
  for (const part of hash.replace(/^#/, "").slice(0, LONGEST).split("&")) {
    const cut = part.indexOf("=");
    try {
      if (cut > 0) given.set(part.slice(0, cut), decodeURIComponent(part.slice(cut + 1)));
    } catch {
      continue; // not an encoded text: ignored, as other parts that can't be understood
    }
  }
  const number = (key: string, otherwise: number): number => {
    const text = given.get(key) ?? "";
    return /^\d{1,9}$/.test(text) ? Number(text) : otherwise;
  };
  const one = <K extends string>(key: string, allowed: readonly K[], otherwise: K): K =>
    allowed.find((each) => each === given.get(key)) ?? otherwise;
  const panes = (given.get("panes") ?? "").split(",").slice(0, MOST_PANES).flatMap((text) => {
    const found = /^(\d{1,4})(?::([\w.-]{1,255}))?$/.exec(text);
    return found ? [{ run: Number(found[1]), adapter: found[2] ?? "" }] : [];
  });
  return {
    panes: panes.length ? panes : NOTHING.panes,
    sample: number("sample", 0),
    token: number("token", -1),
    offset: number("offset", -1),
    layer: given.get("layer") === "-1" ? -1 : number("layer", NO_LAYER),
    component: given.get("component") ?? "",
    direction: number("direction", -1),
    filter: given.get("filter") ?? "",
    sort: one("sort", Object.keys(SORTS) as Sort[], "run"),
    show: one("show", Object.keys(SHOWS) as Show[], "all"),
    search: given.get("search") ?? "",
    theme: one("theme", ["", "light", "dark"], ""),
  };
}

/** The address of a view, beginning with `#`, without defaults. */
export function format(view: View): string {
  const panes = view.panes.map(({ run, adapter }) => (adapter ? `${run}:${adapter}` : `${run}`)).join(",");
  const parts = Object.entries({ ...view, panes })
    .filter(([key, value]) => value !== (key === "panes" ? "0" : NOTHING[key as keyof View]))
    .map(([key, value]) => `${key}=${encode(String(value))}`);
  return `#${parts.join("&")}`;
}

function encode(text: string): string {
  const whole = text.replace(/\p{Surrogate}/gu, "\ufffd"); // half of a surrogate pair can't be encoded
  return encodeURIComponent(whole).replace(/%(3A|2C|2F)/g, (code) => decodeURIComponent(code));
}

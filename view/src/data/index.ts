/** Everything that the page reads: `Data`, from the addresses in view.json. */

import { Cache } from "./cache";
import { readCell } from "./cell";
import { readContext } from "./contexts";
import { readReplies } from "./replies";
import { openRun, type Opened } from "./runs";
import { searchSamples } from "./search";
import { readTokens } from "./tokens";
import { type Data, DataError, type Manifest } from "./types";

/** Readers of the files next to `base`, the page's address; they take runs from this object's `open`. */
export function dataAt(base: string): Data {
  const opened = new Cache(Infinity);
  const manifest = () => opened.get("view.json", () => readManifest(base), () => 0);
  const openPlace = async (place: number) => {
    const { runs } = await manifest();
    if (!runs[place]) throw new DataError(`view.json has no run ${place}; it has ${runs.length}`);
    return await openRun(place, runs[place]);
  };
  return {
    manifest,
    open: (place) => opened.get(`run ${place}`, () => openPlace(place), () => 0),
    tokens: readTokens,
    cell: readCell,
    contexts: (run: Opened, tokens: number[]) => Promise.all(tokens.map((token) => readContext(run, token))),
    replies: readReplies,
    search: searchSamples,
  };
}

async function readManifest(base: string): Promise<Manifest> {
  const url = new URL("view.json", base);
  const response = await fetch(url, { cache: "no-cache" }).catch(() => undefined);
  if (!response?.ok) {
    const advice = "`lorascope view`, or any web server where a bundle lies, serves this page; a file isn't enough";
    throw new DataError(`can't read ${url.href}: ${advice}`);
  }
  const { format, format_version: version, runs } = (await response.json().catch(() => ({}))) as Partial<Manifest>;
  if (format !== "lorascope.view" || version !== 1 || !Array.isArray(runs)) {
    throw new DataError(`${url.href} isn't a manifest of this page's version; make the bundle again`);
  }
  const absolute = (address: unknown) => new URL(String(address), base).href;
  const isReport = ([, file]: [string, unknown]) => /^report[A-Za-z0-9_.-]*\.html$/.test(String(file)); // no other link
  const named = runs.map(({ name, run, index, reports }) => ({
    name: String(name), run: absolute(run), index: absolute(index),
    reports: Object.fromEntries(Object.entries(reports ?? {}).filter(isReport)),
  }));
  return { format, format_version: version, runs: named };
}

export const data: Data = dataAt(globalThis.document?.baseURI ?? "http://localhost/");

/** What the page reads: `Data`, by the addresses in view.json. */

import { readCell } from "./cell";
import { readContext } from "./contexts";
import { openRun, type Opened } from "./runs";
import { searchSamples } from "./search";
import { readTokens } from "./tokens";
import { type Data, DataError, type Manifest, type Run } from "./types";

/** Reads of what lies beside `base`, the page's address. */
export function dataAt(base: string): Data {
  let manifest: Promise<Manifest> | undefined;
  const runs = new Map<number, Promise<Run>>();
  const opened = (run: Run) => run as Opened;
  const data: Data = {
    manifest: () => (manifest ??= readManifest(base)),
    async open(place) {
      const { runs: named } = await data.manifest();
      if (!named[place]) throw new DataError(`view.json has no run ${place}; it has ${named.length}`);
      let run = runs.get(place);
      if (!run) runs.set(place, (run = openRun(place, named[place])));
      run.catch(() => runs.delete(place));
      return await run;
    },
    tokens: (run, adapter, sample) => readTokens(opened(run), adapter, sample),
    cell: (run, adapter, token, component) => readCell(opened(run), adapter, token, component),
    contexts: (run, tokens) => Promise.all(tokens.map((token) => readContext(opened(run), token))),
    search: (run, words, progress, signal) => searchSamples(opened(run), words, progress, signal),
  };
  return data;
}

async function readManifest(base: string): Promise<Manifest> {
  const url = new URL("view.json", base);
  const response = await fetch(url, { cache: "no-cache" }).catch(() => undefined);
  if (!response?.ok) {
    const advice = "`lorascope view`, or any web server where a bundle lies, serves this page; a file isn't enough";
    throw new DataError(`can't read ${url.href}: ${advice}`);
  }
  const found = (await response.json().catch(() => undefined)) as Manifest | undefined;
  const { format, format_version: version, runs } = found ?? {};
  if (format !== "lorascope.view" || version !== 1 || !Array.isArray(runs)) {
    throw new DataError(`${url.href} isn't a manifest of this page's version; make the bundle again`);
  }
  const absolute = (address: unknown) => new URL(String(address), base).href;
  const known = runs.map(({ name, run, index }) => ({ name: String(name), run: absolute(run), index: absolute(index) }));
  return { format, format_version: version, runs: known };
}

export const data: Data = dataAt(globalThis.document?.baseURI ?? "http://localhost/");

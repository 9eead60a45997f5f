/** What the page reads: `Data`, by the addresses in view.json. */

import { readCell } from "./cell";
import { readContexts } from "./contexts";
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
    contexts: (run, tokens) => readContexts(opened(run), tokens),
    search: (run, words, progress, signal) => searchSamples(opened(run), words, progress, signal),
  };
  return data;
}

async function readManifest(base: string): Promise<Manifest> {
  const url = new URL("view.json", base);
  const response = await fetch(url, { cache: "no-cache" }).catch(() => undefined);
  if (!response?.ok) throw new DataError(`can't read ${url.href}: this page is served by \`lorascope view\`, or any web server of a bundle, not opened as a file`);
  const found = (await response.json().catch(() => undefined)) as Manifest | undefined;
  if (found?.format !== "lorascope.view" || found.format_version !== 1 || !Array.isArray(found.runs)) {
    throw new DataError(`${url.href} isn't a manifest of this page's version; make the bundle again`);
  }
  const absolute = (address: unknown) => new URL(String(address), base).href;
  return { ...found, runs: found.runs.map(({ name, run, index }) => ({ name: String(name), run: absolute(run), index: absolute(index) })) };
}

export const data: Data = dataAt(globalThis.document?.baseURI ?? "http://localhost/");

/** Runs, opened: what is known of them before any token is looked at. */

import { readInto, texts } from "./columns";
import { Store } from "./store";
import { type AdapterView, type Component, DataError, type Manifest, type Run, type Samples } from "./types";

const NAME = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/; // so that no path leaves the run
const ROW_TOKENS = 1024;

/** A run with what its tokens are read from. */
export interface Opened extends Run {
  store: Store;
  index: Store;
  /** By adapter, of each component. */
  parts: { scaling: Float64Array; factorStart: Float64Array }[];
}

export async function openRun(place: number, { name, run, index }: Manifest["runs"][number]): Promise<Opened> {
  const store = new Store(run, name, "run `lorascope verify` on it");
  const beside = new Store(index, `the view index of ${name}`, "run `lorascope view` again");
  const [found, indexed] = await Promise.all([store.attributes(), beside.attributes()]);
  checkRun(found, name);
  checkIndex(indexed, found, name);
  const { n_tokens: nTokens, n_rows: nRows, states, finished } = found as { n_tokens: number; n_rows: number; states: Run["states"]; finished: boolean };
  const [components, samples, committed, kept, text] = await Promise.all([
    readComponents(store),
    readSamples(store, nTokens),
    // When a run is finished, all of its rows are committed.
    finished ? new Uint8Array(nRows).fill(1) : readCommitted(store, nRows),
    states === "sample" ? readInto(new Uint8Array(nRows), store, "rows/states", "uint8", [nRows]) : new Uint8Array(nRows).fill(Number(states === "all")),
    store.node("tokens/text"),
  ]);
  const adapters = await Promise.all((found.adapters as string[]).map((adapter) => readAdapter(store, beside, adapter, components.length, samples.n)));
  const row = (token: number) => Math.floor(token / ROW_TOKENS);
  return {
    place, name, nTokens, nRows, states, finished, components, samples, store, index: beside,
    stream: found.stream as Run["stream"],
    nCommittedRows: committed.reduce((sum, one) => sum + one, 0),
    committed: (token) => committed[row(token)] === 1,
    hasStates: (token) => committed[row(token)] === 1 && kept[row(token)] === 1,
    model: modelOf(found.provenance),
    adapters: adapters.map(({ view }) => view),
    parts: adapters.map(({ parts }) => parts),
    hasText: text !== undefined,
  };
}

function checkRun(found: Record<string, unknown>, name: string): void {
  const { format, format_version: version, stream, states, n_tokens, n_rows, adapters } = found;
  if (format !== "lorascope.run") throw new DataError(`${name} isn't a run: its format is ${JSON.stringify(format)}, not "lorascope.run"`);
  if (version !== 1 && version !== 2) {
    throw new DataError(`${name} has format version ${JSON.stringify(version)}; this page reads 1 and 2, so make it with a newer lorascope`);
  }
  if (typeof found.static_digest !== "string") throw new DataError(`${name} is still being set up, or its set-up was interrupted; it has no rows yet`);
  const isWhole =
    ["adapted", "base", "pair"].includes(stream as string) && ["all", "sample", "none"].includes(states as string) &&
    Number.isSafeInteger(n_tokens) && n_rows === Math.ceil((n_tokens as number) / ROW_TOKENS) &&
    Array.isArray(adapters) && adapters.length > 0 && adapters.every((adapter) => typeof adapter === "string" && NAME.test(adapter));
  if (!isWhole) throw new DataError(`the attributes of ${name} aren't as its format asks for; run \`lorascope verify\` on it`);
}

function checkIndex(indexed: Record<string, unknown>, found: Record<string, unknown>, name: string): void {
  if (indexed.format !== "lorascope.view" || indexed.format_version !== 1 || indexed.static_digest !== found.static_digest) {
    throw new DataError(`the view index of ${name} is of another run or version; run \`lorascope view\` again`);
  }
}

function modelOf(provenance: unknown): string {
  const { model, settings } = (provenance ?? {}) as { model?: { name?: unknown }; settings?: { model?: unknown } };
  return [settings?.model, model?.name].find((name) => typeof name === "string") as string | undefined ?? "";
}

/** By row, 1 where it is committed. */
async function readCommitted(store: Store, nRows: number): Promise<Uint8Array> {
  const digests = await readInto(new Uint8Array(nRows * 32), store, "rows/digest", "uint8", [nRows, 32]);
  return Uint8Array.from({ length: nRows }, (_, row) => Number(digests.subarray(row * 32, (row + 1) * 32).some((byte) => byte !== 0)));
}

async function readComponents(store: Store): Promise<Component[]> {
  const n = await lengthOf(store, "components/path");
  const column = (name: string) => readInto(new Int32Array(n), store, `components/${name}`, "int32", [n]);
  const [path, kind, layer, dIn, dOut] = await Promise.all([
    texts(store, "components/path", n), texts(store, "components/kind", n), column("layer"), column("d_in"), column("d_out"),
  ]);
  if (!path.every((one) => NAME.test(one))) throw new DataError(`a component of ${store.name} has a name that its format doesn't allow`);
  return path.map((one, i) => ({ path: one, kind: kind[i]!, layer: layer[i]!, dIn: dIn[i]!, dOut: dOut[i]! }));
}

async function readSamples(store: Store, nTokens: number): Promise<Samples> {
  const n = await lengthOf(store, "samples/id");
  const text = (name: string) => texts(store, `samples/${name}`, n);
  const real = (name: string, type: "float64" | "int64" = "float64") => readInto(new Float64Array(n).fill(NaN), store, `samples/${name}`, type, [n]);
  const score = (name: string) => readInto(new Int8Array(n).fill(-1), store, `samples/${name}`, "int8", [n]);
  const [hasBaseCe, hasBaseCorrect] = await Promise.all(["base_ce", "base_correct"].map((name) => store.node(`samples/${name}`)));
  const [id, dataset, split, prompt, length, start, stop, ce, baseCe, correct, baseCorrect] = await Promise.all([
    text("id"), text("dataset"), text("split"), text("prompt"),
    readInto(new Int32Array(n), store, "samples/length", "int32", [n]),
    real("token_start", "int64"), real("token_stop", "int64"),
    real("ce"), hasBaseCe ? real("base_ce") : new Float64Array(n).fill(NaN),
    score("correct"), hasBaseCorrect ? score("base_correct") : new Int8Array(n).fill(-1),
  ]);
  for (let i = 0, before = 0; i < n; before = stop[i]!, i++) {
    if (!(before <= start[i]! && start[i]! <= stop[i]! && stop[i]! <= nTokens)) throw new DataError(`sample ${i} of ${store.name} has no place on the token axis; ${store.repair}`);
  }
  return { n, id, dataset, split, prompt, length, start, stop, ce, baseCe, correct, baseCorrect };
}

async function lengthOf(store: Store, path: string): Promise<number> {
  const n = (await store.node(path))?.shape?.[0];
  if (!Number.isSafeInteger(n)) throw new DataError(`${store.name} has no array ${path}; ${store.repair}`);
  return n!;
}

async function readAdapter(store: Store, index: Store, name: string, n: number, nSamples: number): Promise<{ view: AdapterView; parts: Opened["parts"][number] }> {
  const root = `adapters/${name}`;
  const [rank, scaling, factorStart, miub, group] = await Promise.all([
    readInto(new Int32Array(n), store, `${root}/rank`, "int32", [n]),
    readInto(new Float64Array(n), store, `${root}/scaling`, "float64", [n]),
    readInto(new Float64Array(n), store, `${root}/factor_start`, "int64", [n]),
    readInto(new Float64Array(nSamples), index, `${root}/miub`, "float64", [nSamples]),
    index.node(root),
  ]);
  const scale = group?.attributes?.scale as AdapterView["scale"] | undefined;
  if (typeof scale?.js !== "number" || typeof scale.token !== "number") throw new DataError(`${index.name} has no scale; ${index.repair}`);
  return { view: { name, rank: rank.map((one) => Math.max(one, 0)), miub, scale }, parts: { scaling, factorStart } };
}

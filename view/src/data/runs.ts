/** Opens runs: reads everything that the page needs before any token. */

import { readInto, texts } from "./columns";
import { ROW_TOKENS, TABLE_CHUNK } from "./format";
import { Store } from "./store";
import {
  type AdapterView, type Component, DataError, type Experts, type Manifest, MEASURES, type Run, type Samples,
} from "./types";

const NAME = /^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$/; // so that no path leaves the run
const MAX_TOKENS = 2 ** 31, MAX_SAMPLES = 2 ** 24, MAX_COMPONENTS = 16_384, MAX_EXPERTS = 32_767; // announced lengths take memory

/** A run with the stores that its tokens are read from. */
export interface Opened extends Run {
  store: Store;
  index: Store;
  /** By adapter, of each component. */
  factors: { scaling: Float64Array; start: Float64Array }[];
}

/** The root attributes of a run that the page asks for. */
interface Root {
  format_version: number;
  static_digest: string;
  /** Hash of what shaped the run's numbers; captures of one adapter on two base models differ in it alone. */
  fingerprint?: unknown;
  stream: Run["stream"];
  states: Run["states"];
  n_tokens: number;
  n_rows: number;
  adapters: string[];
  finished: boolean;
  provenance?: { model?: { name?: unknown }; copied?: unknown };
}

export async function openRun(place: number, { name, run, index: indexUrl }: Manifest["runs"][number]): Promise<Opened> {
  const store = new Store(run, name, "run `lorascope verify` on it");
  const index = new Store(indexUrl, `the view index of ${name}`, "run `lorascope view` again");
  const [found, indexed] = await Promise.all([store.attributes(), index.attributes()]);
  const root = checkedRoot(found, name);
  if (indexed.format !== "lorascope.view" || indexed.format_version !== 1) {
    throw new DataError(`${index.name} is of another version; ${index.repair}`);
  }
  const [ofIndex, ofRun] = [indexed, root].map((of) => [of.fingerprint ?? "", of.static_digest].map(String));
  if (String(ofIndex) !== String(ofRun)) {
    const [other, own] = [ofIndex!, ofRun!].map((hashes) => hashes.map((hash) => hash.slice(0, 16)).join("/"));
    throw new DataError(`${index.name} is of another run, ${other}, than is stored here, ${own}; ${index.repair}`);
  }
  const { n_tokens: nTokens, n_rows: nRows, stream, states, finished } = root;
  const [n, nSamples] = await Promise.all([
    lengthOf(store, "components/path", MAX_COMPONENTS), lengthOf(store, "samples/id", MAX_SAMPLES),
  ]);
  const [components, samples, adapters, committed, kept, text] = await Promise.all([
    readComponents(store, n),
    readSamples(store, nSamples, nTokens),
    Promise.all(root.adapters.map((adapter) => readAdapter(store, index, adapter, n, nSamples))),
    finished ? new Uint8Array(nRows).fill(1) : readCommitted(store, nRows, root.format_version),
    states === "sample" ? readInto(new Uint8Array(nRows), store, "rows/states") : null,
    store.node("tokens/text"),
  ]);
  const isCommitted = (token: number) => committed[Math.floor(token / ROW_TOKENS)] === 1;
  const keeps = (token: number) => (kept ? kept[Math.floor(token / ROW_TOKENS)] === 1 : states === "all");
  return {
    place, name, stream, states, finished, nTokens, nRows, components, samples, store, index,
    nCommittedRows: committed.reduce((sum, one) => sum + one, 0),
    committed: isCommitted,
    hasStates: (token) => isCommitted(token) && keeps(token),
    model: String(root.provenance?.model?.name ?? ""),
    nMissingSamples: missingSamples(root.provenance?.copied),
    adapters: adapters.map(([view]) => view),
    factors: adapters.map(([, factors]) => factors),
    hasText: text !== undefined,
  };
}

/** Number of samples that unfinished runs hadn't captured when they were copied; null if all copied runs were finished. */
function missingSamples(copied: unknown): number | null {
  const steps = (Array.isArray(copied) ? copied : []).filter((step) => step?.finished === false);
  return steps.length ? steps.reduce((sum, step) => sum + (Number(step.samples_incomplete) || 0), 0) : null;
}

function checkedRoot(found: Record<string, unknown>, name: string): Root {
  const { format, format_version: version, static_digest, stream, states, n_tokens, n_rows, adapters } = found;
  if (format !== "lorascope.run") {
    throw new DataError(`${name} isn't a run: its format is ${JSON.stringify(format)}, not "lorascope.run"`);
  }
  if (version !== 1 && version !== 2 && version !== 3) {
    const advice = "this page reads 1, 2 and 3, so view it with a newer lorascope";
    throw new DataError(`${name} has format version ${JSON.stringify(version)}; ${advice}`);
  }
  if (typeof static_digest !== "string") {
    throw new DataError(`${name} is still being set up, or its set-up was interrupted; it has no rows yet`);
  }
  const isKnown = /^(adapted|base|pair)$/.test(String(stream)) && /^(all|sample|none)$/.test(String(states));
  const isSized = isCount(n_tokens, MAX_TOKENS) && n_rows === Math.ceil(n_tokens / ROW_TOKENS);
  const isNamed = Array.isArray(adapters) && adapters.length > 0 && adapters.every((one) => NAME.test(one));
  if (!isKnown || !isSized || !isNamed) {
    throw new DataError(`the attributes of ${name} aren't as its format asks for; run \`lorascope verify\` on it`);
  }
  return found as unknown as Root;
}

/** By row of an unfinished run, 1 where it is committed. */
async function readCommitted(store: Store, nRows: number, version: number): Promise<Uint8Array> {
  const path = version >= 3 ? "rows/commit" : "rows/digest";
  const digests = await readInto(new Uint8Array(nRows * 32), store, path, { shape: [nRows, 32] });
  const isCommitted = (row: number) => digests.subarray(row * 32, (row + 1) * 32).some((byte) => byte !== 0);
  return Uint8Array.from({ length: nRows }, (_, row) => Number(isCommitted(row)));
}

async function readComponents(store: Store, n: number): Promise<Component[]> {
  const number = (name: string) => readInto(new Int32Array(n), store, `components/${name}`);
  const [path, kind, layer, dIn, dOut] = await Promise.all([
    texts(store, "components/path", n), texts(store, "components/kind", n),
    number("layer"), number("d_in"), number("d_out"),
  ]);
  const bad = path.find((one) => !NAME.test(one));
  if (bad !== undefined) throw new DataError(`${store.name} has a component ${JSON.stringify(bad)}, which is no name`);
  return path.map((one, i) => ({ path: one, kind: kind[i]!, layer: layer[i]!, dIn: dIn[i]!, dOut: dOut[i]! }));
}

async function readSamples(store: Store, n: number, nTokens: number): Promise<Samples> {
  const text = (name: string) => texts(store, `samples/${name}`, n);
  const place = (name: string) => readInto(new Float64Array(n), store, `samples/${name}`, { type: "int64" });
  const score = async <T extends Int8Array | Float64Array>(out: T, name: string, isOptional = false) =>
    isOptional && !(await store.node(`samples/${name}`)) ? out : readInto(out, store, `samples/${name}`);
  const [reals, flags] = [() => new Float64Array(n).fill(NaN), () => new Int8Array(n).fill(-1)];
  const [id, dataset, split, prompt, length, start, stop, ce, baseCe, correct, baseCorrect] = await Promise.all([
    text("id"), text("dataset"), text("split"), text("prompt"), readInto(new Int32Array(n), store, "samples/length"),
    place("token_start"), place("token_stop"),
    score(reals(), "ce"), score(reals(), "base_ce", true),
    score(flags(), "correct"), score(flags(), "base_correct", true),
  ]);
  const isPlaced = (i: number) => (stop[i - 1] ?? 0) <= start[i]! && start[i]! <= stop[i]! && stop[i]! <= nTokens;
  const lost = start.findIndex((_, i) => !isPlaced(i));
  if (lost >= 0) throw new DataError(`sample ${lost} of ${store.name} has no place on the token axis; ${store.repair}`);
  return { n, id, dataset, split, prompt, length, start, stop, ce, baseCe, correct, baseCorrect };
}

function isCount(n: unknown, most: number): n is number {
  return Number.isInteger(n) && (n as number) >= 0 && (n as number) <= most;
}

async function lengthOf(store: Store, path: string, most: number): Promise<number> {
  const n = (await store.node(path))?.shape?.[0];
  if (!isCount(n, most)) throw new DataError(`${store.name} has no array ${path} of at most ${most}; ${store.repair}`);
  return n;
}

async function readAdapter(
  store: Store, index: Store, name: string, n: number, nSamples: number,
): Promise<[AdapterView, Opened["factors"][number]]> {
  const root = `adapters/${name}`;
  const [rank, scaling, start, miub, group, replies, experts] = await Promise.all([
    readInto(new Int32Array(n), store, `${root}/rank`),
    readInto(new Float64Array(n), store, `${root}/scaling`),
    readInto(new Float64Array(n), store, `${root}/factor_start`, { type: "int64" }),
    readInto(new Float64Array(nSamples), index, `${root}/miub`),
    index.node(root),
    store.node(`${root}/replies/text`),
    readExperts(index, `${root}/experts`),
  ]);
  const nReplies = replies ? await lengthOf(store, `${root}/replies/text`, TABLE_CHUNK) : 0;
  const scale = group?.attributes?.scale as AdapterView["scale"] | undefined;
  if (typeof scale?.js !== "number" || typeof scale.token !== "number") {
    throw new DataError(`${index.name} has no scale; ${index.repair}`);
  }
  return [{ name, rank: rank.map((one) => Math.max(one, 0)), miub, scale, nReplies, experts }, { scaling, start }];
}

async function readExperts(index: Store, root: string): Promise<Experts | null> {
  const shape = (await index.node(`${root}/miub`))?.shape;
  if (!shape) return null;
  const [nLayers, n] = shape;
  if (shape.length !== 2 || !isCount(nLayers, MAX_COMPONENTS) || !isCount(n, MAX_EXPERTS)) {
    throw new DataError(`array ${root}/miub of ${index.name} doesn't follow its format; ${index.repair}`);
  }
  const found = await Promise.all(MEASURES.map((name) => index.node(`${root}/${name}`)));
  const names = MEASURES.filter((_, i) => found[i]);
  const [layers, ...values] = await Promise.all([
    readInto(new Float64Array(nLayers), index, `${root}/layer`),
    ...names.map((name) => readInto(new Float64Array(nLayers * n), index, `${root}/${name}`, { shape })),
  ]);
  return { layers: [...layers!], n, values: new Map(names.map((name, i) => [name, values[i]!])) };
}

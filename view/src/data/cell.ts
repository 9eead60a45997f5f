/** One token in one component. */

import { deltaOf, scoresOf } from "../numbers/delta";
import { effectiveWidth, jensenShannon, norm } from "../numbers/divergence";
import { widenBfloat16, widenFloat16 } from "../numbers/floats";
import type { Numbers } from "./codecs";
import { readInto } from "./columns";
import type { Opened } from "./runs";
import { chunkShape } from "./store";
import { readJs } from "./tokens";
import type { Cell, Direction } from "./types";

const N_FEATURES = 10;

/** A token and component of a run and adapter. */
interface Place {
  run: Opened;
  adapter: number;
  token: number;
  component: number;
  /** Of the component. */
  path: string;
  dOut: number;
  /** Of the adapter's arrays. */
  root: string;
  rank: number;
}

export async function readCell(run: Opened, adapter: number, token: number, component: number): Promise<Cell> {
  const { path, dOut } = run.components[component]!, { name, rank } = run.adapters[adapter]!;
  const place = { run, adapter, token, component, path, dOut, root: `adapters/${name}`, rank: rank[component]! };
  const without = reasonWithout(place);
  const [measured, found] = await Promise.all([
    without === null ? fromStates(place) : fromReductions(place),
    without === null ? readDirections(place) : without,
  ]);
  const [directions, withoutDirections] = typeof found === "string" ? [null, found] : [found, null];
  const ratio = measured.deltaNorm / measured.baseNorm;
  return { token, component, ratio, without, ...measured, directions, withoutDirections };
}

function reasonWithout({ run, token, rank }: Place): string | null {
  if (!run.committed(token)) return "the token's row is not captured yet";
  if (rank === 0) return "the adapter leaves this component alone";
  if (run.hasStates(token)) return null;
  return run.states === "none" ? "the run keeps no states" : "the token's row keeps no states";
}

type Measured = Pick<Cell, "js" | "baseNorm" | "deltaNorm" | "effectiveWidth" | "jsPermuted" | "features">;

async function fromStates(place: Place): Promise<Measured> {
  const [base, delta, order] = await Promise.all([
    readState(place, "base"),
    readDelta(place),
    readInto(new Int32Array(place.dOut), place.run.index, `permutation/${place.dOut}`),
  ]);
  const features = [...delta.keys()].sort((a, b) => Math.abs(delta[b]!) - Math.abs(delta[a]!)).slice(0, N_FEATURES);
  return {
    js: jensenShannon(base, delta),
    baseNorm: norm(base),
    deltaNorm: norm(delta),
    effectiveWidth: effectiveWidth(base),
    jsPermuted: jensenShannon(base, Float32Array.from(order, (feature) => delta[feature]!)),
    features: features.map((feature) => ({ feature, base: base[feature]!, delta: delta[feature]! })),
  };
}

/** Numbers that a capture without states measured; NaN for those that it didn't. */
async function fromReductions({ run, adapter, token, component, root }: Place): Promise<Measured> {
  const n = run.components.length, shape = [run.nTokens, n];
  const part = { shape, start: token, stop: token + 1, isThere: run.committed };
  const reduction = async (path: string) => {
    const values = new Float32Array(n).fill(NaN);
    return ((await run.store.node(path)) ? await readInto(values, run.store, path, part) : values)[component]!;
  };
  const [js, baseNorm, deltaNorm, width] = await Promise.all([
    readJs(run, adapter, token, token + 1), reduction("reductions/base_norm"), reduction(`${root}/delta_norm`),
    reduction("reductions/effective_width"),
  ]);
  return { js: js[component]!, baseNorm, deltaNorm, effectiveWidth: width, jsPermuted: NaN, features: [] };
}

function readState(place: Place, name: "base" | "adapted"): Promise<Float32Array> {
  return readRow(place, `states/${place.path}/${name}`, "float32", "float16", "uint16");
}

/** One token of an array (token, feature), float32. */
async function readRow({ run, token, dOut }: Place, path: string, ...types: string[]): Promise<Float32Array> {
  const node = await run.store.array(path, [run.nTokens, dOut], ...types);
  const values = await run.store.rows(path, node, token);
  if (values instanceof Float32Array) return values;
  return node.data_type === "float16" ? widenFloat16(values as Uint16Array) : widenBfloat16(values as Uint16Array);
}

/** What the adapter adds, float32 by feature; in a `pair` run the whole change, adapted - base. */
async function readDelta(place: Place): Promise<Float32Array> {
  const { run, adapter, component, path, dOut, root, rank } = place;
  if (run.stream === "pair") {
    const [base, adapted] = await Promise.all([readState(place, "base"), readState(place, "adapted")]);
    return adapted.map((value, feature) => value - base[feature]!);
  }
  const z = await readZ(place);
  if (!z) return await readRow(place, `${root}/delta/${path}`, "float32");
  const bias = `${root}/lora_bias/${path}`, hasBias = await run.store.node(bias);
  return deltaOf(
    z,
    await readInto(new Float32Array(dOut * rank), run.store, `${root}/lora_B/${path}`, { shape: [dOut, rank] }),
    run.factors[adapter]!.scaling[component]!,
    hasBias && (await readInto(new Float32Array(dOut), run.store, bias)),
  );
}

/** z = A x; null if the component has no factor. */
async function readZ({ run, adapter, token, component, root, rank }: Place): Promise<Float32Array | null> {
  const start = run.factors[adapter]!.start[component]!, path = `${root}/factor`;
  if (start < 0) return null;
  const nColumns = (await run.store.node(path))?.shape?.[1] ?? 0;
  const node = await run.store.array(path, [run.nTokens, nColumns], "float32");
  const [length, width] = chunkShape(node) as [number, number];
  const values = Array.from({ length: rank }, async (_, i) => {
    const chunk = await run.store.chunk(path, [Math.floor(token / length), Math.floor((start + i) / width)]);
    return Number((chunk as Numbers)[(token % length) * width + ((start + i) % width)]);
  });
  return Float32Array.from(await Promise.all(values));
}

/** The component's singular directions, or the reason why it has no directions. */
async function readDirections(place: Place): Promise<Direction[] | string> {
  const { run, component, root } = place;
  const z = run.stream === "pair" ? null : await readZ(place);
  if (!z) return "this component's delta is not kept as a factor, so it has no rank directions";
  const n = run.components.length, most = Math.max(...run.adapters[place.adapter]!.rank);
  const nTop = (await run.index.node(`${root}/top_token`))?.shape?.[2] ?? 0;
  const read = <T extends Float32Array | Float64Array>(out: T, name: string, ...axes: number[]) => {
    const type = out instanceof Float64Array ? ("int64" as const) : undefined;
    const part = { shape: [n, most, ...axes], type, start: component, stop: component + 1 };
    return readInto(out, run.index, `${root}/${name}`, part);
  };
  const [rotation, share, topToken, topScore] = await Promise.all([
    read(new Float32Array(most * most), "rotation", most), read(new Float32Array(most), "share"),
    read(new Float64Array(most * nTop), "top_token", nTop), read(new Float32Array(most * nTop), "top_score", nTop),
  ]);
  const top = Array.from(topToken, (token, i) => ({ token, score: topScore[i]! }));
  const scores = [...scoresOf(z, rotation, most).subarray(0, z.length)];
  return scores.map((score, i) => {
    return { share: share[i]!, score, top: top.slice(i * nTop, (i + 1) * nTop).filter(({ token }) => token >= 0) };
  });
}

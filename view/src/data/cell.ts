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

export async function readCell(run: Opened, adapter: number, token: number, component: number): Promise<Cell> {
  const without = !run.committed(token)
    ? "the token's row is not captured yet"
    : run.adapters[adapter]!.rank[component] === 0
      ? "the adapter leaves this component alone"
      : run.hasStates(token) ? null : run.states === "none" ? "the run keeps no states" : "the token's row keeps no states";
  const [measured, found] = await Promise.all([
    without === null ? fromStates(run, adapter, token, component) : fromReductions(run, adapter, token, component),
    without === null ? readDirections(run, adapter, token, component) : without,
  ]);
  const directions = typeof found === "string" ? { directions: null, withoutDirections: found } : { directions: found, withoutDirections: null };
  return { token, component, ratio: measured.deltaNorm / measured.baseNorm, without, ...measured, ...directions };
}

type Measured = Pick<Cell, "js" | "baseNorm" | "deltaNorm" | "effectiveWidth" | "jsPermuted" | "features">;

async function fromStates(run: Opened, adapter: number, token: number, component: number): Promise<Measured> {
  const { dOut } = run.components[component]!;
  const [base, delta, order] = await Promise.all([
    readState(run, "base", token, component),
    readDelta(run, adapter, token, component),
    readInto(new Int32Array(dOut), run.index, `permutation/${dOut}`, "int32", [dOut]),
  ]);
  const features = Array.from(delta, (_, feature) => feature).sort((a, b) => Math.abs(delta[b]!) - Math.abs(delta[a]!));
  return {
    js: jensenShannon(base, delta),
    baseNorm: norm(base),
    deltaNorm: norm(delta),
    effectiveWidth: effectiveWidth(base),
    jsPermuted: jensenShannon(base, Float32Array.from(order, (feature) => delta[feature]!)),
    features: features.slice(0, N_FEATURES).map((feature) => ({ feature, base: base[feature]!, delta: delta[feature]! })),
  };
}

/** What the capture measured where it kept no states; NaN where it didn't. */
async function fromReductions(run: Opened, adapter: number, token: number, component: number): Promise<Measured> {
  const n = run.components.length;
  const reduction = async (path: string) => {
    const values = new Float32Array(n).fill(NaN);
    if (await run.store.node(path)) await readInto(values, run.store, path, "float32", [run.nTokens, n], token, token + 1, run.committed);
    return values[component]!;
  };
  const [js, baseNorm, deltaNorm, width] = await Promise.all([
    readJs(run, adapter, token, token + 1).then((values) => values[component]!),
    reduction("reductions/base_norm"),
    reduction(`adapters/${run.adapters[adapter]!.name}/delta_norm`),
    reduction("reductions/effective_width"),
  ]);
  return { js, baseNorm, deltaNorm, effectiveWidth: width, jsPermuted: NaN, features: [] };
}

/** Base or adapted of one token, float32 by feature. */
async function readState(run: Opened, name: "base" | "adapted", token: number, component: number): Promise<Float32Array> {
  const { path, dOut } = run.components[component]!;
  return await readRow(run, `states/${path}/${name}`, token, dOut, ["float32", "float16", "uint16"]);
}

async function readRow(run: Opened, path: string, token: number, width: number, types: string[]): Promise<Float32Array> {
  const node = await run.store.array(path, [run.nTokens, width], ...types);
  const values = await run.store.row(path, node, token);
  if (values instanceof Float32Array) return values;
  return node.data_type === "float16" ? widenFloat16(values as Uint16Array) : widenBfloat16(values as Uint16Array);
}

/** What the adapter adds to one token, float32 by feature; of a `pair` run all that it changes, adapted - base. */
async function readDelta(run: Opened, adapter: number, token: number, component: number): Promise<Float32Array> {
  if (run.stream === "pair") {
    const [base, adapted] = await Promise.all([readState(run, "base", token, component), readState(run, "adapted", token, component)]);
    return adapted.map((value, feature) => value - base[feature]!);
  }
  const { path, dOut } = run.components[component]!, root = `adapters/${run.adapters[adapter]!.name}`;
  const z = await readZ(run, adapter, token, component);
  if (!z) return await readRow(run, `${root}/delta/${path}`, token, dOut, ["float32"]);
  const hasBias = await run.store.node(`${root}/lora_bias/${path}`);
  const [B, bias] = await Promise.all([
    readInto(new Float32Array(dOut * z.length), run.store, `${root}/lora_B/${path}`, "float32", [dOut, z.length]),
    hasBias && readInto(new Float32Array(dOut), run.store, `${root}/lora_bias/${path}`, "float32", [dOut]),
  ]);
  return deltaOf(z, B, run.parts[adapter]!.scaling[component]!, bias);
}

/** z of one token; null where the component has no factor. */
async function readZ(run: Opened, adapter: number, token: number, component: number): Promise<Float32Array | null> {
  const { name, rank } = run.adapters[adapter]!, start = run.parts[adapter]!.factorStart[component]!;
  if (start < 0) return null;
  const path = `adapters/${name}/factor`, nColumns = (await run.store.node(path))?.shape?.[1] ?? 0;
  const [nRows, width] = chunkShape(await run.store.array(path, [run.nTokens, nColumns], "float32")) as [number, number];
  const columns = Array.from({ length: rank[component]! }, (_, i) => start + i);
  const values = columns.map(async (column) => {
    const chunk = (await run.store.chunk(path, [Math.floor(token / nRows), Math.floor(column / width)])) as Numbers;
    return chunk[(token % nRows) * width + (column % width)] as number;
  });
  return Float32Array.from(await Promise.all(values));
}

/** The component's singular directions, or why there are none. */
async function readDirections(run: Opened, adapter: number, token: number, component: number): Promise<Direction[] | string> {
  const z = await readZ(run, adapter, token, component);
  if (!z || run.stream === "pair") return "this component's delta is not kept as a factor, so it has no rank directions";
  const root = `adapters/${run.adapters[adapter]!.name}`, n = run.components.length;
  const [, most = 0, nTop = 0] = (await run.index.node(`${root}/top_token`))?.shape ?? [];
  const of = <T extends Float32Array | Float64Array>(out: T, name: string, type: "float32" | "int64", ...axes: number[]) =>
    readInto(out, run.index, `${root}/${name}`, type, [n, ...axes], component, component + 1);
  const [rotation, share, topToken, topScore] = await Promise.all([
    of(new Float32Array(most * most), "rotation", "float32", most, most),
    of(new Float32Array(most), "share", "float32", most),
    of(new Float64Array(most * nTop), "top_token", "int64", most, nTop),
    of(new Float32Array(most * nTop), "top_score", "float32", most, nTop),
  ]);
  return Array.from(scoresOf(z, rotation, most).subarray(0, z.length), (score, direction) => ({
    share: share[direction]!,
    score,
    top: Array.from({ length: nTop }, (_, i) => ({ token: topToken[direction * nTop + i]!, score: topScore[direction * nTop + i]! })).filter(({ token }) => token >= 0),
  }));
}

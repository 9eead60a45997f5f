/** Reads parts of arrays along their first axis, from the chunks that contain them. */

import type { Numbers } from "./codecs";
import { chunkShape, type Store } from "./store";
import type { TextChunk } from "./text";

type Out = Int8Array | Uint8Array | Int32Array | Float32Array | Float64Array;

interface Part {
  /** Shape of the array; by default one axis as long as `out`. */
  shape?: readonly number[];
  /** Type of the array; by default that of `out`. */
  type?: "int64";
  start?: number;
  stop?: number;
  /** Whether the chunk with this entry may be read; `out` keeps its values otherwise. */
  isThere?: (entry: number) => boolean;
}

/** Reads entries `start` to `stop` of an array into `out`, which has room for them, and returns that. */
export async function readInto<T extends Out>(out: T, store: Store, path: string, part: Part = {}): Promise<T> {
  const { shape = [out.length], start = 0, stop = shape[0]!, isThere = () => true } = part;
  const type = part.type ?? out.constructor.name.replace("Array", "").toLowerCase();
  const node = await store.array(path, shape, type);
  const [length, ...rest] = chunkShape(node) as [number, ...number[]];
  const width = rest.reduce((product, n) => product * n, 1);
  const some = pieces(length, start, stop).filter(({ at }) => isThere(at)).map(async ({ place, from, to, at }) => {
    const isPart = width > 1 && to - from < length; // wide rows are in several blocks
    const values = isPart ? await store.rows(path, node, at, to - from)
      : ((await store.chunk(path, [place, ...rest.fill(0)])) as Numbers).subarray(from * width, to * width);
    const isWide = values instanceof BigInt64Array || values instanceof BigUint64Array;
    out.set(isWide ? Array.from(values, Number) : values, (at - start) * width);
  });
  await Promise.all(some);
  return out;
}

/** Texts `start` to `stop` of a column of `n`. */
export async function texts(store: Store, path: string, n: number, start = 0, stop = n): Promise<string[]> {
  const [length] = chunkShape(await store.array(path, [n], "string")) as [number];
  const slices = pieces(length, start, stop).map(async ({ place, from, to }) => {
    return ((await store.chunk(path, [place])) as TextChunk).slice(from, to);
  });
  return ([] as string[]).concat(...(await Promise.all(slices)));
}

/** Part of a chunk: the chunk's place, start and stop in it, and the array's entry at the start. */
type Piece = { place: number; from: number; to: number; at: number };

function pieces(length: number, start: number, stop: number): Piece[] {
  const first = Math.floor(start / length), n = stop > start ? Math.ceil(stop / length) - first : 0;
  return Array.from({ length: n }, (_, i) => {
    const place = first + i, begin = place * length;
    return { place, from: Math.max(start - begin, 0), to: Math.min(stop - begin, length), at: Math.max(begin, start) };
  });
}

/** Arrays read along their first axis, from the chunks that hold what is asked for. */

import type { Numbers } from "./codecs";
import { chunkShape, type Store } from "./store";
import type { TextChunk } from "./text";

type Type = "int8" | "int16" | "int32" | "int64" | "uint8" | "float32" | "float64";

/** Parts of an array's chunks along the first axis: which chunk, from where to where in it, and where that begins. */
function parts(chunk: number, start: number, stop: number): { place: number; from: number; to: number; at: number }[] {
  const [first, last] = [Math.floor(start / chunk), Math.ceil(stop / chunk)];
  return Array.from({ length: Math.max(last - first, 0) }, (_, i) => {
    const place = first + i, begin = place * chunk;
    return { place, from: Math.max(start - begin, 0), to: Math.min(stop - begin, chunk), at: Math.max(begin, start) };
  });
}

/**
 * Entries `start` to `stop` as `out`, which has room for them; those of a chunk that `isThere` denies (by its first
 * entry asked for) are left as they are. `shape` and `type` are what the array must have.
 */
export async function readInto<T extends { set(values: ArrayLike<number>, at: number): void }>(
  out: T, store: Store, path: string, type: Type, shape: readonly number[], start = 0, stop = shape[0]!, isThere = (_entry: number) => true,
): Promise<T> {
  const chunk = chunkShape(await store.array(path, shape, type));
  const width = chunk.slice(1).reduce((product, n) => product * n, 1);
  await Promise.all(
    parts(chunk[0]!, start, stop).filter(({ at }) => isThere(at)).map(async ({ place, from, to, at }) => {
      const values = (await store.chunk(path, [place, ...chunk.slice(1).fill(0)])) as Numbers;
      const part = values.subarray(from * width, to * width);
      out.set(part instanceof BigInt64Array || part instanceof BigUint64Array ? Array.from(part, Number) : part, (at - start) * width);
    }),
  );
  return out;
}

/** What `take` makes of the chunks of text that hold entries `start` to `stop`, in order. */
export async function readTexts<T>(
  store: Store, path: string, n: number, start: number, stop: number, take: (chunk: TextChunk, from: number, to: number) => T,
): Promise<T[]> {
  const chunk = chunkShape(await store.array(path, [n], "string"))[0]!;
  return await Promise.all(
    parts(chunk, start, stop).map(async ({ place, from, to }) => take((await store.chunk(path, [place])) as TextChunk, from, to)),
  );
}

/** Texts `start` to `stop` of a column of `n`. */
export async function texts(store: Store, path: string, n: number, start = 0, stop = n): Promise<string[]> {
  const each = (chunk: TextChunk, from: number, to: number) => Array.from({ length: to - from }, (_, i) => chunk.at(from + i));
  return (await readTexts(store, path, n, start, stop, each)).flat();
}

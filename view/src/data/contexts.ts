/** Tokens somewhere in a run, with the text around them. */

import type { Opened } from "./runs";
import { readColumn, readTexts } from "./tokens";
import type { Context } from "./types";

const N_AROUND = 8;

export async function readContext(run: Opened, token: number): Promise<Context> {
  const sample = sampleOf(run.samples.stop, token);
  const start = Math.max(run.samples.start[sample] ?? token, token - N_AROUND);
  const stop = Math.min(run.samples.stop[sample] ?? token + 1, token + N_AROUND + 1);
  const column = (name: string) => readColumn(run, new Int32Array(stop - start), name, start);
  const [position, text] = await Promise.all([
    column("position"),
    readTexts(run, start, stop).then(async (found) => found ?? Array.from(await column("token_id"), (id) => `${id} `)),
  ]);
  // An ellipsis stands for tokens that were not captured.
  const gapAfter = (i: number) => (i + 1 < text.length && position[i + 1] !== position[i]! + 1 ? "…" : "");
  const joined = (from: number, to: number) => text.slice(from, to).map((one, i) => one + gapAfter(from + i)).join("");
  const at = token - start;
  return { token, sample, before: joined(0, at), text: text[at]!, after: gapAfter(at) + joined(at + 1, text.length) };
}

/** The first sample that ends after the token. */
function sampleOf(stops: Float64Array, token: number): number {
  let [low, high] = [0, stops.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (stops[middle]! > token) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** Searches words in the texts of samples. */

import type { Opened } from "./runs";
import { readTexts } from "./tokens";

const N_AT_ONCE = 65_536; // tokens: a chunk of text
const TEXTS = new WeakMap<Opened, string[]>();

/** Samples whose captured text contains each of the words, in any case. */
export async function searchSamples(
  run: Opened, words: string, progress: (share: number) => void, signal: AbortSignal,
): Promise<Set<number>> {
  const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
  const found = new Set<number>();
  (await sampleTexts(run, progress, signal)).forEach((text, sample) => {
    if (wanted.every((word) => text.includes(word))) found.add(sample);
  });
  return found;
}

/** Text of each sample in lower case; read once. */
async function sampleTexts(run: Opened, progress: (share: number) => void, signal: AbortSignal): Promise<string[]> {
  const known = TEXTS.get(run);
  if (known) return known;
  const { n, start, stop } = run.samples;
  const all: string[] = [];
  for (let first = 0, next = 0; first < n; first = next) {
    while (next < n && (next === first || stop[next]! - start[first]! <= N_AT_ONCE)) next++;
    signal.throwIfAborted();
    const from = start[first]!, text = (await readTexts(run, from, stop[next - 1]!)) ?? [];
    for (let i = first; i < next; i++) all.push(text.slice(start[i]! - from, stop[i]! - from).join("").toLowerCase());
    progress(next / n);
    await new Promise((resolve) => setTimeout(resolve)); // the page may paint
  }
  TEXTS.set(run, all);
  return all;
}

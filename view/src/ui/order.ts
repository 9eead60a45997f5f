/** The samples that are listed, and their order. */

import { ROW_TOKENS } from "../data/format";
import type { Run, Samples } from "../data/types";
import type { Show, Sort, View } from "./state";

const ORDER: Show[] = ["became-wrong", "became-right", "stayed-wrong", "wrong", "stayed-right", "right", "all"];

/** Right or wrong, without and with the adapter; `all` if the answers weren't scored. */
export function outcome({ correct, baseCorrect }: Samples, sample: number): Show {
  const [now, before] = [correct[sample]!, baseCorrect[sample] ?? -1];
  if (now < 0) return "all";
  const word = now ? "right" : "wrong";
  return before < 0 ? word : `${before === now ? "stayed" : "became"}-${word}`;
}

/** Change of cross-entropy by the adapter, nats a token. */
export const ceChange = ({ ce, baseCe }: Samples, sample: number) => ce[sample]! - (baseCe[sample] ?? NaN);

/** Whether every captured token of a sample is committed. */
export function isWhole(run: Run, sample: number): boolean {
  const [start, stop] = [run.samples.start[sample]!, run.samples.stop[sample]!];
  for (let token = start; token < stop; token = (Math.floor(token / ROW_TOKENS) + 1) * ROW_TOKENS) {
    if (!run.committed(token)) return false;
  }
  return true;
}

/** Samples to list, by place in the run; those without a number come last. `inText` has the samples that match the search. */
export function listed(run: Run, miub: Float64Array, view: View, inText: Set<number>): number[] {
  const words = view.search.trim().toLowerCase();
  const kept: number[] = [];
  for (let sample = 0; sample < run.samples.n; sample++) {
    const is = outcome(run.samples, sample);
    const shown = view.show === "all" || is === view.show || (!view.show.includes("-") && is.endsWith(view.show));
    const found = !words || inText.has(sample) || run.samples.id[sample]!.toLowerCase().includes(words);
    if (shown && found) kept.push(sample);
  }
  if (view.sort === "run") return kept;
  const key = sortKey(run, miub, view.sort);
  const keys = new Float64Array(run.samples.n);
  for (const sample of kept) keys[sample] = key(sample);
  return kept.sort((a, b) => compare(keys[a]!, keys[b]!) || a - b);
}

function sortKey(run: Run, miub: Float64Array, sort: Sort): (sample: number) => number {
  if (sort === "outcome") return (sample) => ORDER.indexOf(outcome(run.samples, sample));
  const sign = sort.startsWith("-") ? -1 : 1;
  return sort.endsWith("miub") ? (sample) => sign * miub[sample]! : (sample) => sign * ceChange(run.samples, sample);
}

function compare(a: number, b: number): number {
  return Number.isNaN(a) || Number.isNaN(b) ? Number(Number.isNaN(a)) - Number(Number.isNaN(b)) : a - b;
}

/** The same sample in another run, by data set, split, prompt and id; -1 if that run lacks it. */
export function twin(from: Run, sample: number, to: Run): number {
  if (from === to) return sample;
  const name = ({ dataset, split, prompt, id }: Samples, at: number) =>
    JSON.stringify([dataset[at], split[at], prompt[at], id[at]]);
  let places = twins.get(to);
  if (!places) twins.set(to, (places = new Map(to.samples.id.map((_, at) => [name(to.samples, at), at]))));
  return places.get(name(from.samples, sample)) ?? -1;
}

const twins = new WeakMap<Run, Map<string, number>>();

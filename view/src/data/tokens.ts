/** A sample's tokens. */

import { readInto, texts } from "./columns";
import type { Opened } from "./runs";
import type { Tokens } from "./types";

export async function readTokens(run: Opened, adapter: number, sample: number): Promise<Tokens> {
  const start = run.samples.start[sample]!, stop = run.samples.stop[sample]!, n = stop - start;
  const [position, role, nll, js, text] = await Promise.all([
    readColumn(run, new Int32Array(n), "position", start),
    readColumn(run, new Int8Array(n), "role", start),
    readColumn(run, new Float32Array(n).fill(NaN), "nll", start, run.committed),
    readJs(run, adapter, start, stop),
    readSigns(run, start, stop),
  ]);
  return { start, n, position, role, text, nll, js };
}

/** Texts of tokens; a token without text gets its id in brackets. */
async function readSigns(run: Opened, start: number, stop: number): Promise<string[]> {
  const text = (await readTexts(run, start, stop)) ?? new Array<string>(stop - start).fill("");
  if (text.every(Boolean)) return text;
  const id = await readColumn(run, new Int32Array(stop - start), "token_id", start);
  return text.map((one, i) => one || `[${id[i]}]`);
}

/** Reads a column of the table of tokens from `start` on into `out`. */
export async function readColumn<T extends Int8Array | Int32Array | Float32Array>(
  run: Opened, out: T, name: string, start: number, isThere?: (token: number) => boolean,
): Promise<T> {
  const part = { shape: [run.nTokens], start, stop: start + out.length, isThere };
  return await readInto(out, run.store, `tokens/${name}`, part);
}

/** Texts of tokens; null if the run has no texts. */
export async function readTexts(run: Opened, start: number, stop: number): Promise<string[] | null> {
  return run.hasText ? await texts(run.store, "tokens/text", run.nTokens, start, stop) : null;
}

/** Js of tokens by component, nats: from the view index, else as the capture measured it; NaN where it didn't. */
export async function readJs(run: Opened, adapter: number, start: number, stop: number): Promise<Float32Array> {
  const path = `adapters/${run.adapters[adapter]!.name}/js`, n = run.components.length;
  const js = new Float32Array((stop - start) * n).fill(NaN), part = { shape: [run.nTokens, n], start, stop };
  if (await run.index.node(path)) return await readInto(js, run.index, path, part);
  return await readInto(js, run.store, path, { ...part, isThere: run.committed });
}

/** A sample's tokens. */

import { readInto, texts } from "./columns";
import type { Opened } from "./runs";
import type { Tokens } from "./types";

export async function readTokens(run: Opened, adapter: number, sample: number): Promise<Tokens> {
  const [start, stop] = [run.samples.start[sample]!, run.samples.stop[sample]!];
  const n = stop - start;
  const column = <T extends Int8Array | Int32Array>(out: T, name: string, type: "int8" | "int32") =>
    readInto(out, run.store, `tokens/${name}`, type, [run.nTokens], start, stop);
  const [position, tokenId, role, nll, js, text] = await Promise.all([
    column(new Int32Array(n), "position", "int32"),
    column(new Int32Array(n), "token_id", "int32"),
    column(new Int8Array(n), "role", "int8"),
    readInto(new Float32Array(n).fill(NaN), run.store, "tokens/nll", "float32", [run.nTokens], start, stop, run.committed),
    readJs(run, adapter, start, stop),
    tokenTexts(run, start, stop),
  ]);
  return { start, n, position, tokenId, role, text: text ?? Array.from(tokenId, String), nll, js };
}

/** Js of tokens by component, nats: from the view index where that has it, else the capture's own; NaN where none is. */
export async function readJs(run: Opened, adapter: number, start: number, stop: number): Promise<Float32Array> {
  const path = `adapters/${run.adapters[adapter]!.name}/js`, nComponents = run.components.length;
  const store = (await run.index.node(path)) ? run.index : run.store;
  const js = new Float32Array((stop - start) * nComponents).fill(NaN);
  const isThere = store === run.index ? () => true : run.committed;
  return await readInto(js, store, path, "float32", [run.nTokens, nComponents], start, stop, isThere);
}

/** Texts of tokens; null where the run has none. */
export async function tokenTexts(run: Opened, start: number, stop: number): Promise<string[] | null> {
  return run.hasText ? await texts(run.store, "tokens/text", run.nTokens, start, stop) : null;
}

/** A small run of one's own making, with its index: two components, two samples of three and two tokens. */

import { Group } from "./served";

export const N_TOKENS = 5;
export const BASE = [
  Float32Array.from({ length: 15 }, (_, i) => Math.sin(i)),
  Float32Array.from({ length: 20 }, (_, i) => Math.cos(i)),
];
export const Z = Float32Array.from({ length: 15 }, (_, i) => Math.sin(2 * i)); // (token, factor column)
export const B = [Float32Array.of(1, 2, 3), Float32Array.from({ length: 8 }, (_, i) => i - 3)];
export const BIAS = Float32Array.of(0.5, 0, -0.5, 1);
export const ADAPTED = BASE.map((values) => values.map((value, i) => value + 0.1 * Math.sin(5 * i)));
export const RUN_JS = Float32Array.from({ length: 10 }, (_, i) => i / 100);
export const INDEX_JS = Float32Array.from({ length: 10 }, (_, i) => i / 10);

export interface Made {
  states?: "all" | "sample" | "none";
  stream?: "adapted" | "base" | "pair";
  finished?: boolean;
  /** The copying steps in its provenance. */
  copied?: unknown;
  /** Whether the one row is committed. */
  committed?: boolean;
  rank?: [number, number];
  text?: boolean;
  /** Texts of replies, four for each prompt. */
  replies?: string[];
  /** Whether the adapter is on experts: two layers of three, the last without tokens. */
  experts?: boolean;
}

export function makeRun({
  states = "all",
  stream = "adapted",
  finished = true,
  copied,
  committed = true,
  rank = [1, 2],
  text = true,
  replies = [],
  experts = false,
}: Made = {}): { run: Group; index: Group } {
  const byRow = (width: number): [number[], number[]] => [
    [N_TOKENS, width],
    [1024, width],
  ];
  const run = new Group({
    format: "lorascope.run",
    format_version: 3,
    stream,
    states,
    n_tokens: N_TOKENS,
    n_rows: 1,
    adapters: ["a"],
    finished,
    static_digest: "d".repeat(64),
    fingerprint: "f".repeat(64),
    provenance: { model: { name: "tiny" }, copied },
  });
  run
    .array("rows/commit", new Uint8Array(32).fill(committed ? 7 : 0), [1, 32])
    .array("components/path", ["m.0", "m.1"])
    .array("components/kind", ["q", "v"])
    .array("components/layer", Int32Array.of(0, 1))
    .array("components/d_in", Int32Array.of(2, 2))
    .array("components/d_out", Int32Array.of(3, 4))
    .array("samples/id", ["x<b>", "y"])
    .array("samples/dataset", ["d", "d"])
    .array("samples/split", ["t", "t"])
    .array("samples/prompt", ["p", "p"])
    .array("samples/length", Int32Array.of(9, 2))
    .array("samples/token_start", BigInt64Array.of(0n, 3n))
    .array("samples/token_stop", BigInt64Array.of(3n, 5n))
    .array("samples/ce", Float64Array.of(1, 2))
    .array("samples/base_ce", Float64Array.of(3, 4))
    .array("samples/correct", Int8Array.of(1, 0))
    .array("samples/base_correct", Int8Array.of(0, -1))
    .array("tokens/position", Int32Array.of(1, 5, 6, 0, 1), [5], [2])
    .array("tokens/token_id", Int32Array.of(11, 12, 13, 14, 15))
    .array("tokens/role", Int8Array.of(0, 2, 2, 4, 4))
    .array("tokens/nll", Float32Array.of(1, 2, 3, NaN, 5), [5], [1024])
    .array("adapters/a/rank", Int32Array.from(rank))
    .array("adapters/a/scaling", Float64Array.of(2, 0.5))
    .array("adapters/a/factor_start", BigInt64Array.of(0n, 1n))
    .array("adapters/a/js", RUN_JS, ...byRow(2));
  if (replies.length) {
    run
      .array("adapters/a/replies/prompt", replies.map((_, i) => `<i>${Math.floor(i / 4)}?`))
      .array("adapters/a/replies/text", replies)
      .array("adapters/a/replies/scale", Float32Array.from(replies, (_, i) => [0, 1, 1.5, 2][i % 4]!));
  }
  if (text) run.array("tokens/text", ["One", " two", " three", "Ünder", "<b>"], [5], [2]);
  if (states === "sample") run.array("rows/states", Uint8Array.of(1));
  if (states !== "all") {
    run.array(
      "reductions/base_norm",
      Float32Array.from({ length: 10 }, (_, i) => i + 1),
      ...byRow(2),
    );
    run.array(
      "reductions/effective_width",
      Float32Array.from({ length: 10 }, (_, i) => i + 2),
      ...byRow(2),
    );
    run.array(
      "adapters/a/delta_norm",
      Float32Array.from({ length: 10 }, (_, i) => (i + 1) / 4),
      ...byRow(2),
    );
  }
  if (states !== "none") {
    run.array("states/m.0/base", BASE[0]!, ...byRow(3)).array("states/m.1/base", BASE[1]!, ...byRow(4));
    if (stream === "pair")
      run.array("states/m.0/adapted", ADAPTED[0]!, ...byRow(3)).array("states/m.1/adapted", ADAPTED[1]!, ...byRow(4));
    run.sharded("adapters/a/factor", Z, [N_TOKENS, 3], 2);
    run
      .array("adapters/a/lora_B/m.0", B[0]!, [3, 1])
      .array("adapters/a/lora_B/m.1", B[1]!, [4, 2])
      .array("adapters/a/lora_bias/m.1", BIAS);
  }
  const index = new Group({
    format: "lorascope.view", format_version: 1, static_digest: "d".repeat(64), fingerprint: "f".repeat(64),
  });
  index
    .group("adapters/a", { scale: { js: 0.5, token: 0.6 } })
    .array("permutation/3", Int32Array.of(2, 0, 1))
    .array("permutation/4", Int32Array.of(1, 3, 2, 0))
    .array("adapters/a/miub", Float64Array.of(0.25, 0.5))
    .array("adapters/a/rotation", Float32Array.of(-1, NaN, NaN, NaN, 0, 2, 1, 1), [2, 2, 2], [1, 2, 2])
    .array("adapters/a/share", Float32Array.of(1, NaN, 0.75, 0.25), [2, 2])
    .array("adapters/a/top_token", BigInt64Array.of(3n, -1n, -1n, -1n, 4n, 0n, 1n, 2n), [2, 2, 2], [1, 2, 2])
    .array("adapters/a/top_score", Float32Array.of(-3, NaN, NaN, NaN, 9, 8, -7, 6), [2, 2, 2], [1, 2, 2]);
  if (states === "all") index.array("adapters/a/js", INDEX_JS, [5, 2], [2, 2]);
  if (experts) {
    index.array("adapters/a/experts/layer", Float64Array.of(2, 5));
    EXPERT_MEASURES.forEach((name, place) => index.array(`adapters/a/experts/${name}`, expertValues(place), [2, 3]));
  }
  return { run, index };
}

export const EXPERT_MEASURES = ["miub", "miub_se", "delta_ratio", "share", "n_tokens"] as const;
/** Values of a measure by its place; the last expert's are NaN or 0. */
export const expertValues = (place: number) =>
  Float64Array.from({ length: 6 }, (_, i) => (i < 5 ? (place + 1) * (i + 1) : place < 3 ? NaN : 0));

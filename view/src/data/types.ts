/** The interface between reading runs (`data/`) and showing them (`ui/`). */

/** `view.json`, next to the page. Addresses are relative to the page or absolute, and of stores end in `/`. */
export interface Manifest {
  format: "lorascope.view";
  format_version: 1;
  /** `reports`: file of the report by adapter, next to the page; only bundles have them. */
  runs: { name: string; run: string; index: string; reports?: Record<string, string> }[];
}

/** One LoRA-wrapped linear layer, in the order of every `component` axis. */
export interface Component {
  path: string;
  kind: string;
  layer: number;
  dIn: number;
  dOut: number;
}

/** One entry per sample; scores that were not asked for are -1 or NaN. */
export interface Samples {
  n: number;
  id: string[];
  dataset: string[];
  split: string[];
  prompt: string[];
  /** Tokens of the whole sequence; those of `start` to `stop` were captured. */
  length: Int32Array;
  start: Float64Array;
  stop: Float64Array;
  /** Cross-entropy of the tokens to be predicted, nats a token. */
  ce: Float64Array;
  baseCe: Float64Array;
  /** 1 right, 0 wrong, -1 not scored. */
  correct: Int8Array;
  baseCorrect: Int8Array;
}

/** An adapter of a run. */
export interface AdapterView {
  name: string;
  /** By component; 0 if the adapter doesn't change it. */
  rank: Int32Array;
  /** By sample, nats; NaN if the sample isn't complete. */
  miub: Float64Array;
  /** Nats that the darkest colour stands for: a high quantile of js over tokens and components, and of its sum by token. */
  scale: { js: number; token: number };
  /** Number of replies to prompts, one for each prompt and scale; 0 if none were asked for. */
  nReplies: number;
  /** Numbers by layer and expert of a mixture; null if the adapter isn't on experts. */
  experts: Experts | null;
}

/** What an adapter on a mixture's experts does by layer and expert; NaN or 0 tokens where none are routed. */
export interface Experts {
  layers: number[];
  n: number;
  /** By measure (layer, expert) row by row; the base's share and the share that is gained in stream `pair` alone. */
  values: Map<Measure, Float64Array>;
}

export const MEASURES = ["miub", "miub_se", "delta_ratio", "share", "base_share", "gained", "n_tokens"] as const;
export type Measure = (typeof MEASURES)[number];

/** A prompt, and what the model replied without the adapter and at 1, 1.5 and 2 times its scale. */
export interface Reply {
  prompt: string;
  texts: string[];
}

export interface Run {
  /** Place in the manifest. */
  place: number;
  name: string;
  stream: "adapted" | "base" | "pair";
  states: "all" | "sample" | "none";
  finished: boolean;
  /** Number of samples that the source of this copy hadn't captured yet; null if no unfinished run was copied. */
  nMissingSamples: number | null;
  nTokens: number;
  nRows: number;
  nCommittedRows: number;
  /** Whether a token's row is committed; numbers of other tokens may not be read. */
  committed(token: number): boolean;
  /** Whether base and delta of a token can be read. */
  hasStates(token: number): boolean;
  model: string;
  components: Component[];
  samples: Samples;
  adapters: AdapterView[];
  /** Whether tokens have a text; else they are shown by their id. */
  hasText: boolean;
}

/** Captured tokens of one sample, in order; gaps in `position` are tokens that were not captured. */
export interface Tokens {
  /** Index of the first token on the token axis. */
  start: number;
  n: number;
  position: Int32Array;
  /** 0 prompt, 1 choice, 2 answer, 3 generated, 4 text, 5 system, 6 user, 7 assistant, 8 tool, 9 template. */
  role: Int8Array;
  /** Text of each token, or its id in brackets. */
  text: string[];
  /** Negative log-likelihood, nats; NaN at position 0 and where the row is not committed. */
  nll: Float32Array;
  /** Js in nats, (token, component) row by row; NaN where it is unknown. */
  js: Float32Array;
}

export interface Cell {
  token: number;
  component: number;
  js: number;
  /** |delta| / |base|, Euclidean norms. */
  ratio: number;
  baseNorm: number;
  deltaNorm: number;
  /** exp of the entropy of softmax(base). */
  effectiveWidth: number;
  /** Js of delta with its features permuted, the same permutation as Python's `js_permuted`; NaN without states. */
  jsPermuted: number;
  /** Features whose delta is largest, in descending order of |delta|; empty without states. */
  features: { feature: number; base: number; delta: number }[];
  /** Why base and delta are missing, or null. */
  without: string | null;
  directions: Direction[] | null;
  /** Why there are no directions, or null. */
  withoutDirections: string | null;
}

/** A singular direction of the component's delta over the tokens with states. */
export interface Direction {
  /** Share of the summed |delta|² over the run's tokens. */
  share: number;
  /** Coordinate of this token's delta along the direction, in the units of delta. */
  score: number;
  /** Tokens of the run at which |score| is largest, in descending order. */
  top: { token: number; score: number }[];
}

/** A token somewhere in the run, with the text around it. */
export interface Context {
  token: number;
  sample: number;
  before: string;
  text: string;
  after: string;
}

/** An error of a store, with a message in one line. */
export class DataError extends Error {}

/** Reading; every function throws DataError with a line that names what is broken and what to do. */
export interface Data {
  manifest(): Promise<Manifest>;
  open(place: number): Promise<Run>;
  tokens(run: Run, adapter: number, sample: number): Promise<Tokens>;
  cell(run: Run, adapter: number, token: number, component: number): Promise<Cell>;
  contexts(run: Run, tokens: number[]): Promise<Context[]>;
  replies(run: Run, adapter: number): Promise<Reply[]>;
  /** Samples whose text contains all words (ids aren't searched); texts are read once, with progress from 0 to 1. */
  search(run: Run, words: string, progress: (share: number) => void, signal: AbortSignal): Promise<Set<number>>;
}

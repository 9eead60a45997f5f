/** What all parts of the page share. */

import type { AdapterView, Data, Manifest, Run, Tokens } from "../data/types";
import { ROLES } from "../data/format";
import { cut, oneLine } from "./dom";
import type { Grid } from "./select";
import { num, type PALETTE, type Ramp } from "./scale";
import type { View } from "./state";

export interface App {
  data: Data;
  manifest: Manifest;
  view: View;
  /** Under the cursor: position in the sequence or -1, and layer or `NO_LAYER`. */
  hovered: { token: number; layer: number };
  /** Captured positions of the first pane's sample; empty until they are read. */
  positions: Int32Array;
  /** Js in nats that the strongest colour stands for, shared by all panes: of a component, a layer, and a token. */
  scale: { js: number; layer: number; token: number };
  ramp: Ramp;
  palette: (typeof PALETTE)["light" | "dark"];
  run(place: number): Promise<Run>;
  /** Change the view and show it; `step` makes an entry in the browser's history. */
  go(change: Partial<View>, step?: boolean): void;
  hover(token: number, layer: number): void;
}

/** What a pane shows: a sample of a run and adapter. */
export interface Shown {
  run: Run;
  place: number;
  adapter: AdapterView;
  sample: number;
  tokens: Tokens;
  grid: Grid;
  /** By component, 1 if chosen. */
  mask: Uint8Array;
  byToken: Float64Array;
  byLayer: Float64Array;
}

export const roleOf = ({ role }: Tokens, at: number) => ROLES[role[at]!] ?? "no role";
/** Numbers of the roles that the model learns to say. */
export const ANSWER_ROLES = new Set([2, 3, 7]);

/** Index of a position among the captured tokens; -1 if it wasn't captured. */
export function placeOf(positions: Int32Array, position: number): number {
  let [low, high] = [0, positions.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (positions[middle]! < position) low = middle + 1;
    else high = middle;
  }
  return positions[low] === position ? low : -1;
}

/** Text of a token, cut if it is too long to read. */
export const textOf = ({ text }: Tokens, at: number) => cut(text[at]!);

/** A token's text, position and role, for a line of text. */
export const tokenLabel = (tokens: Tokens, at: number) =>
  `“${oneLine(tokens.text[at]!).trim()}”, position ${tokens.position[at]}, ${roleOf(tokens, at)}`;

/** Js with its unit, for a line of text. */
export const jsText = (js: number) => (Number.isNaN(js) ? "no js here" : `js ${num(js)} nats`);

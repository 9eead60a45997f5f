/** Choice of components, and sums of js over them. */

import type { Component } from "../data/types";

/** Components by layer (rows) and kind (columns). */
export interface Grid {
  layers: number[];
  kinds: string[];
  /** By component: row * kinds + column. */
  cell: Int32Array;
  /** By cell: its components, most often one. */
  members: number[][];
}

export function grid(components: Component[]): Grid {
  const layers = [...new Set(components.map(({ layer }) => layer))].sort((a, b) => a - b);
  const kinds = [...new Set(components.map(({ kind }) => kind))];
  const row = new Map(layers.map((layer, place) => [layer, place]));
  const column = new Map(kinds.map((kind, place) => [kind, place]));
  const cell = Int32Array.from(components, ({ layer, kind }) => row.get(layer)! * kinds.length + column.get(kind)!);
  const members: number[][] = Array.from({ length: layers.length * kinds.length }, () => []);
  cell.forEach((place, component) => members[place]!.push(component));
  return { layers, kinds, cell, members };
}

/** Whether a name fits a pattern of `*`, `?`, `[abc]` and `[!abc]`, as Python's `fnmatchcase`; never slow. */
export function fits(name: string, pattern: string): boolean {
  const parts = pattern.match(/\[!?\]?[^\]]*\]|[^]/gu) ?? [];
  const letters = [...name];
  let at = 0, part = 0, star = -1, resume = 0;
  while (at < letters.length) {
    if (parts[part] === "*") {
      star = part++;
      resume = at;
    } else if (part < parts.length && fitsOne(letters[at]!, parts[part]!)) {
      at++;
      part++;
    } else if (star >= 0) {
      part = star + 1;
      at = ++resume;
    } else return false;
  }
  return parts.slice(part).every((each) => each === "*");
}

function fitsOne(letter: string, part: string): boolean {
  if (part === "?" || part === letter) return true;
  if (part.length < 3 || part[0] !== "[") return false;
  const not = part[1] === "!";
  const letters = [...part.slice(not ? 2 : 1, -1)];
  for (let i = 0; i < letters.length; i++) {
    const isRange = letters[i + 1] === "-" && i + 2 < letters.length;
    if (isRange ? letters[i]! <= letter && letter <= letters[i + 2]! : letters[i] === letter) return !not;
    if (isRange) i += 2;
  }
  return not;
}

/** 1 for each component that matches one of the patterns (separated by space or comma), or for all without a pattern. */
export function chosen(components: Component[], filter: string): Uint8Array {
  const names = new Set(filter.split(/[\s,]+/).filter(Boolean)), patterns = [...names].filter((each) => /[*?[]/.test(each));
  const fitting = ({ path }: Component) => names.has(path) || patterns.some((pattern) => fits(path, pattern));
  return Uint8Array.from(components, (component) => Number(!names.size || fitting(component)));
}

/** Number of all components, of the chosen ones, and of the chosen ones in the layer with the most of them. */
export function counts(components: Component[], filter: string): { all: number; n: number; inLayer: number } {
  const mask = chosen(components, filter), inLayer = new Map<number, number>();
  components.forEach(({ layer }, at) => inLayer.set(layer, (inLayer.get(layer) ?? 0) + mask[at]!));
  const n = mask.reduce((sum, each) => sum + each, 0);
  return { all: mask.length, n, inLayer: Math.max(0, ...inLayer.values()) };
}

/** A pattern that matches exactly the components of a layer or kind, else their paths. */
export function patternOf(components: Component[], of: { layer: number } | { kind: string }): string {
  const wanted = (each: Component) => ("layer" in of ? each.layer === of.layer : each.kind === of.kind);
  const short = "layer" in of ? `*.${of.layer}.*` : `*.${of.kind}`;
  const exact = components.every((each) => fits(each.path, short) === wanted(each));
  return exact ? short : components.filter(wanted).map(({ path }) => path).join(" ");
}

/** Sums over the chosen components, by token and by (token, layer); NaN if all of them are NaN. */
export function sums(js: Float32Array, n: number, { cell, layers, kinds }: Grid, mask: Uint8Array) {
  const width = cell.length;
  const byLayer = new Float64Array(n * layers.length).fill(NaN);
  const byToken = new Float64Array(n).fill(NaN);
  for (let token = 0; token < n; token++) {
    for (let component = 0; component < width; component++) {
      const value = js[token * width + component]!;
      if (!mask[component] || Number.isNaN(value)) continue;
      const place = token * layers.length + Math.floor(cell[component]! / kinds.length);
      byLayer[place] = (byLayer[place] || 0) + value;
      byToken[token] = (byToken[token] || 0) + value;
    }
  }
  return { byToken, byLayer };
}

/** The component with the largest js, among chosen ones if there are any; undefined for an empty list. */
export function strongestOf(all: number[], mask: Uint8Array, js: ArrayLike<number>): number | undefined {
  const there = all.filter((each) => mask[each]);
  return (there.length ? there : all).slice().sort((a, b) => (js[b]! || 0) - (js[a]! || 0))[0];
}

/** Js by component at one token, or the mean over all tokens (-1); NaN where it is unknown. */
export function byComponent(js: Float32Array, n: number, width: number, token: number): Float64Array {
  if (token >= 0) return Float64Array.from(js.subarray(token * width, (token + 1) * width));
  const sum = new Float64Array(width), count = new Float64Array(width);
  for (let at = 0; at < n * width; at += width) {
    for (let component = 0; component < width; component++) {
      const value = js[at + component]!;
      if (!Number.isNaN(value)) (sum[component]! += value), count[component]!++;
    }
  }
  return sum.map((each, component) => each / count[component]!);
}

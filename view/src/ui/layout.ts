/** Positions and sizes of columns and rows; arithmetic only. */

export interface Columns {
  /** Pixels left of the first column. */
  gutter: number;
  width: number;
  n: number;
}

/** Columns that fill `room` pixels, if they are wide enough to see; else as wide as a finger needs, to be scrolled. */
export function columns(room: number, n: number, gutter: number): Columns {
  const width = Math.floor((room - gutter) / Math.max(1, n));
  return { gutter, n, width: width < 7 ? 14 : Math.min(26, width) };
}

/** First visible column and the one after the last, when scrolled by `scrolled` pixels. */
export function inSight({ gutter, width, n }: Columns, scrolled: number, room: number): [number, number] {
  return [Math.max(0, Math.floor(scrolled / width)), Math.min(n, Math.ceil((scrolled + room - gutter) / width))];
}

/** Column under a point of the canvas; -1 if there is no column. */
export function columnAt({ gutter, width, n }: Columns, x: number, scrolled: number): number {
  const at = Math.floor((x - gutter + scrolled) / width);
  return x >= gutter && at < n ? at : -1;
}

/** Scroll position at which a whole column is visible. */
export function scrollTo({ gutter, width }: Columns, column: number, scrolled: number, room: number): number {
  const right = (column + 1) * width - (room - gutter);
  return Math.max(0, Math.min(Math.max(scrolled, right), column * width));
}

/** Height of `n` rows that share the room, in whole pixels between `least` and `most`. */
export const rowHeight = (room: number, n: number, least: number, most: number) =>
  Math.min(most, Math.max(least, Math.floor(room / Math.max(1, n))));

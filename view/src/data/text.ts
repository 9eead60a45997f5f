/** A chunk of texts, as Zarr's `vlen-utf8` codec writes it: their number, then each text's length and UTF-8. */

import { MAX_TEXT_BYTES } from "./format";

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

export class TextChunk {
  readonly #bytes: Uint8Array;
  /** Start of each text, and of one that would follow the last. */
  readonly #starts: Uint32Array;

  /** Throws Error unless the bytes contain `length` texts. */
  constructor(bytes: Uint8Array, length: number) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const isThere = bytes.length >= 4 + 4 * length && view.getUint32(0, true) === length;
    if (!isThere) throw new Error(`it doesn't hold ${length} texts`);
    this.#bytes = bytes;
    this.#starts = new Uint32Array(length + 1);
    let at = 4;
    for (let i = 0; i < length; i++) {
      if (at + 4 > bytes.length) throw new Error("its texts are cut off");
      this.#starts[i] = at + 4;
      at += 4 + view.getUint32(at, true);
    }
    if (at !== bytes.length) throw new Error("its texts are cut off");
    this.#starts[length] = at + 4;
  }

  /** Bytes of texts that a Blosc container announces; throws Error above the format's limit. */
  static sizeIn(container: Uint8Array): number {
    const view = new DataView(container.buffer, container.byteOffset, container.length);
    const announced = container.length < 8 ? 0 : view.getUint32(4, true);
    if (announced > MAX_TEXT_BYTES) throw new Error(`it announces ${announced} bytes of text`);
    return announced;
  }

  get byteLength(): number {
    return this.#bytes.length + this.#starts.byteLength;
  }

  /** Texts `start` to `stop`. */
  slice(start: number, stop: number): string[] {
    const ends = (i: number): [number, number] => [this.#starts[start + i]!, this.#starts[start + i + 1]! - 4];
    const n = stop - start, bytes = new Uint8Array(this.#starts[stop]! - this.#starts[start]! - 4 * n);
    let at = 0;
    for (let i = 0; i < n; i++) for (let [k, end] = ends(i); k < end; k++) bytes[at++] = this.#bytes[k]!;
    // If all is ASCII, the texts are decoded at once, and characters have the offsets of bytes.
    const whole = UTF8.decode(bytes), isAscii = whole.length === bytes.length;
    at = 0;
    return Array.from({ length: n }, (_, i) => {
      const [k, end] = ends(i);
      return isAscii ? whole.slice(at, (at += end - k)) : UTF8.decode(this.#bytes.subarray(k, end));
    });
  }
}

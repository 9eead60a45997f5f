/** A chunk of texts, as Zarr's `vlen-utf8` codec writes it: how many, then of each its length and UTF-8. */

const MAX_BYTES = 64 * 1024 ** 2;
const UTF8 = new TextDecoder();

export class TextChunk {
  readonly #bytes: Uint8Array;
  /** Where each text begins, and where one after the last would. */
  readonly #starts: Uint32Array;

  /** Throws Error unless the bytes hold so many texts. */
  constructor(bytes: Uint8Array, length: number) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (bytes.length < 4 + 4 * length || view.getUint32(0, true) !== length) throw new Error(`it doesn't hold ${length} texts`);
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
    const announced = container.length < 8 ? 0 : new DataView(container.buffer, container.byteOffset).getUint32(4, true);
    if (announced > MAX_BYTES) throw new Error(`it announces ${announced} bytes of text`);
    return announced;
  }

  get byteLength(): number {
    return this.#bytes.length + this.#starts.byteLength;
  }

  at(i: number): string {
    return UTF8.decode(this.#bytes.subarray(this.#starts[i], this.#starts[i + 1]! - 4));
  }

  /** Texts `start` to `stop` in one. */
  joined(start: number, stop: number): string {
    const parts = new Uint8Array(Math.max(this.#starts[stop]! - this.#starts[start]! - 4 * (stop - start), 0));
    for (let i = start, to = 0; i < stop; i++) {
      const part = this.#bytes.subarray(this.#starts[i], this.#starts[i + 1]! - 4);
      parts.set(part, to);
      to += part.length;
    }
    return UTF8.decode(parts);
  }
}

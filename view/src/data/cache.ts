/** Cache of values that were read last, up to a number of bytes. */

/** Forgets the least recently used values; those still being read count 0 bytes. Failures aren't kept. */
export class Cache {
  #entries = new Map<string, { value: Promise<unknown>; bytes: number }>();
  #bytes = 0;

  constructor(readonly limitBytes: number) {}

  /** The value of `load`, which is called only if the cache lacks it. */
  get<T>(key: string, load: () => Promise<T>, bytesOf: (value: T) => number): Promise<T> {
    let entry = this.#entries.get(key) as { value: Promise<T>; bytes: number } | undefined;
    this.#entries.delete(key); // and to the end, which is the youngest
    if (!entry) {
      const created = (entry = { value: load(), bytes: 0 });
      created.value.then(
        (value) => this.#grow(created, bytesOf(value)),
        () => this.#entries.delete(key),
      );
    }
    this.#entries.set(key, entry);
    return entry.value;
  }

  #grow(entry: { bytes: number }, bytes: number): void {
    this.#bytes += entry.bytes = bytes;
    for (const [key, { bytes }] of this.#entries) {
      if (this.#bytes <= this.limitBytes) return;
      if (bytes > 0) this.#entries.delete(key);
      this.#bytes -= bytes;
    }
  }
}

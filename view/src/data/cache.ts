/** What was read last, shared by all who ask for it, up to a number of bytes. */

/** Forgets what was used least recently; what is still being read counts as nothing. A failure isn't kept. */
export class Cache {
  #entries = new Map<string, { value: Promise<unknown>; bytes: number }>();
  #bytes = 0;

  constructor(readonly limitBytes: number) {}

  /** What `load` gives, called once for all who ask while it is kept. */
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

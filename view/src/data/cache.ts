/** What was read last, shared by all who ask for it, up to a number of bytes. */

interface Entry {
  value: Promise<unknown>;
  bytes: number;
}

/** Forgets what was used least recently; what is still being read counts as nothing and stays. */
export class Cache {
  #entries = new Map<string, Entry>();
  #bytes = 0;

  constructor(readonly limitBytes: number) {}

  /** What `load` gives, once for all who ask while it is kept; a failure isn't kept. */
  get<T>(key: string, load: () => Promise<T>, bytesOf: (value: T) => number): Promise<T> {
    const known = this.#entries.get(key);
    if (known) {
      this.#entries.delete(key); // and to the end, which is the youngest
      this.#entries.set(key, known);
      return known.value as Promise<T>;
    }
    const value = load();
    const entry = { value, bytes: 0 };
    this.#entries.set(key, entry);
    value.then(
      (loaded) => {
        this.#bytes += entry.bytes = bytesOf(loaded);
        this.#shrink();
      },
      () => this.#entries.delete(key),
    );
    return value;
  }

  #shrink(): void {
    for (const [key, { bytes }] of this.#entries) {
      if (this.#bytes <= this.limitBytes) return;
      if (bytes === 0) continue;
      this.#entries.delete(key);
      this.#bytes -= bytes;
    }
  }
}

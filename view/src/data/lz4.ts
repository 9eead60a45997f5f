/** Decoder of LZ4 blocks. */

/** Decodes a block into `out`; throws Error unless it fills `out` exactly. */
export function decodeLz4(block: Uint8Array, out: Uint8Array): void {
  let from = 0, to = 0;
  const length = (nibble: number): number => {
    let n = nibble, byte = nibble === 15 ? 255 : 0;
    while (byte === 255) n += byte = block[from++] ?? NaN;
    return n;
  };
  while (from < block.length) {
    const token = block[from++]!;
    const literals = length(token >> 4);
    if (!(from + literals <= block.length && to + literals <= out.length)) throw new Error("its LZ4 block is broken");
    if (literals > 32) out.set(block.subarray(from, from + literals), to);
    else for (let i = 0; i < literals; i++) out[to + i] = block[from + i]!;
    from += literals;
    to += literals;
    if (from === block.length) break; // the last sequence has no match
    const offset = block[from]! | (block[from + 1]! << 8);
    from += 2;
    const match = length(token & 15) + 4;
    if (!(offset > 0 && offset <= to && to + match <= out.length)) throw new Error("its LZ4 block is broken");
    if (offset >= match && match > 32) out.copyWithin(to, to - offset, to - offset + match);
    else for (let i = 0; i < match; i++) out[to + i] = out[to - offset + i]!; // may repeat what it writes
    to += match;
  }
  if (to !== out.length) throw new Error("its LZ4 block is broken");
}

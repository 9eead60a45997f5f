/** Decoder of any range of Blosc 1 containers: blocks of zstd or LZ4, shuffled by byte or by bit. */

import { decompress as decodeZstd } from "fzstd";
import { decodeLz4 } from "./lz4";

const HEADER_BYTES = 16;
const LZ4 = 1, ZSTD = 4;
const BLOCK = new Uint8Array(512 * 1024);
/**
 * fzstd throws unless it fills its output, see plugins.mjs. It asks whether that == 1, for which an array is written out
 * as text unless it has a value.
 */
const PLAIN = { value: () => 0 };

/** Bytes `start` to `stop` (by default all) of a container that must announce `size` of them; throws Error. */
export function decodeBlosc(container: Uint8Array, size: number, start = 0, stop = size): Uint8Array {
  const view = new DataView(container.buffer, container.byteOffset, container.length), n = container.length;
  if (n < HEADER_BYTES || view.getUint32(12, true) !== n) throw new Error("it is cut off");
  const [version, flags, itemSize] = [container[0]!, container[2]!, container[3]!];
  const [announced, blockSize] = [view.getUint32(4, true), view.getUint32(8, true)];
  if (version !== 2 || itemSize === 0) throw new Error("its Blosc header is broken");
  if (announced !== size) throw new Error(`it announces ${announced} bytes instead of ${size}`);
  if (flags & 2) { // not compressed
    if (n !== HEADER_BYTES + size) throw new Error("it is cut off");
    return container.subarray(HEADER_BYTES + start, HEADER_BYTES + stop);
  }
  const nBlocks = Math.ceil(size / blockSize);
  if (!(HEADER_BYTES + 4 * nBlocks <= n)) throw new Error("its Blosc header is broken");
  const out = new Uint8Array(stop - start);
  for (let block = Math.floor(start / blockSize); block * blockSize < stop; block++) {
    const first = block * blockSize, length = Math.min(blockSize, size - first);
    const [from, to] = [Math.max(start, first), Math.min(stop, first + length)];
    const isWhole = to - from === length;
    const target = isWhole ? out.subarray(from - start, to - start) : new Uint8Array(length);
    decodeBlock(view.getUint32(HEADER_BYTES + 4 * block, true), target);
    if (!isWhole) out.set(target.subarray(from - first, to - first), from - start);
  }
  return out;

  function decodeBlock(at: number, out: Uint8Array): void {
    const length = out.length;
    // By default each byte of the items was compressed on its own, except in a shorter last block.
    const isSplit = !(flags & 16) && itemSize <= 16 && blockSize / itemSize >= 128 && length === blockSize;
    const nParts = isSplit ? itemSize : 1, part = length / nParts;
    const byBit = (flags & 4) > 0 && Math.floor(length / itemSize) % 8 === 0, byByte = (flags & 1) > 0 && itemSize > 1;
    const decoded = byBit || byByte ? scratch(length) : out;
    for (let i = 0; i < nParts; i++) {
      if (!(at >= HEADER_BYTES && at + 4 <= container.length)) throw new Error("its Blosc header is broken");
      const n = view.getUint32(at, true);
      if (n > container.length - at - 4) throw new Error("its Blosc header is broken");
      const [stored, target] = [container.subarray(at + 4, at + 4 + n), decoded.subarray(i * part, (i + 1) * part)];
      if (n === part) target.set(stored);
      else if (flags >> 5 === ZSTD) decodeZstd(stored, Object.defineProperty(target, "valueOf", PLAIN));
      else if (flags >> 5 === LZ4) decodeLz4(stored, target);
      else throw new Error("its compressor isn't in the format");
      at += 4 + n;
    }
    if (byByte) unshuffleBytes(decoded, itemSize, out);
    else if (byBit) unshuffleBits(decoded, itemSize, out);
  }
}

/** Zeroed memory for a block before it is unshuffled; blocks of the format's size share it. */
function scratch(length: number): Uint8Array {
  return length > BLOCK.length ? new Uint8Array(length) : BLOCK.subarray(0, length).fill(0);
}

/** Undo the byte shuffle, which stores all first bytes of the items, then all second ones; the remainder isn't shuffled. */
function unshuffleBytes(shuffled: Uint8Array, itemSize: number, out: Uint8Array): void {
  const n = Math.floor(out.length / itemSize);
  out.set(shuffled.subarray(n * itemSize), n * itemSize);
  for (let byte = 0; byte < itemSize; byte++) {
    for (let i = 0, from = byte * n, to = byte; i < n; i++, to += itemSize) out[to] = shuffled[from + i]!;
  }
}

/** Undo the bit shuffle, which stores all lowest bits of the first bytes first, eight items to a byte. */
function unshuffleBits(shuffled: Uint8Array, itemSize: number, out: Uint8Array): void {
  const n = Math.floor(out.length / itemSize / 8);
  out.set(shuffled.subarray(8 * n * itemSize), 8 * n * itemSize);
  for (let byte = 0; byte < itemSize; byte++) {
    for (let i = 0, from = byte * 8 * n, to = byte; i < n; i++, from++) {
      // Eight rows of eight bits, transposed in three steps of ever larger squares (Warren, Hacker's Delight, 7-3).
      let x = 0, y = 0;
      for (let k = 0; k < 4; k++) x |= shuffled[from + k * n]! << (8 * k);
      for (let k = 0; k < 4; k++) y |= shuffled[from + (4 + k) * n]! << (8 * k);
      let t = (x ^ (x >>> 7)) & 0x00aa00aa;
      x ^= t ^ (t << 7);
      t = (y ^ (y >>> 7)) & 0x00aa00aa;
      y ^= t ^ (t << 7);
      t = (x ^ (x >>> 14)) & 0x0000cccc;
      x ^= t ^ (t << 14);
      t = (y ^ (y >>> 14)) & 0x0000cccc;
      y ^= t ^ (t << 14);
      t = (x ^ (y << 4)) & 0xf0f0f0f0;
      x ^= t;
      y ^= t >>> 4;
      for (let k = 0; k < 4; k++, to += itemSize) out[to] = x >>> (8 * k);
      for (let k = 0; k < 4; k++, to += itemSize) out[to] = y >>> (8 * k);
    }
  }
}

/** CRC-32C (Castagnoli), as Zarr's `crc32c` codec appends it. */

const SLICES = 8;
/** TABLE[256 k + byte]: what a byte adds that k further bytes follow. */
const TABLE = new Int32Array(256 * SLICES);
for (let byte = 0; byte < 256; byte++) {
  let sum = byte;
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ 0x82f63b78 : sum >>> 1;
  TABLE[byte] = sum;
}
for (let i = 256; i < TABLE.length; i++) TABLE[i] = (TABLE[i - 256]! >>> 8) ^ TABLE[TABLE[i - 256]! & 255]!;

/** The checksum of the bytes, unsigned. */
export function crc32c(bytes: Uint8Array): number {
  let sum = ~0, i = 0;
  for (const end = bytes.length - (SLICES - 1); i < end; i += SLICES) {
    const low = sum ^ (bytes[i]! | (bytes[i + 1]! << 8) | (bytes[i + 2]! << 16) | (bytes[i + 3]! << 24));
    sum = TABLE[1792 + (low & 255)]! ^ TABLE[1536 + ((low >>> 8) & 255)]! ^ TABLE[1280 + ((low >>> 16) & 255)]!;
    sum ^= TABLE[1024 + (low >>> 24)]! ^ TABLE[768 + bytes[i + 4]!]! ^ TABLE[512 + bytes[i + 5]!]!;
    sum ^= TABLE[256 + bytes[i + 6]!]! ^ TABLE[bytes[i + 7]!]!;
  }
  for (; i < bytes.length; i++) sum = (sum >>> 8) ^ TABLE[(sum ^ bytes[i]!) & 255]!;
  return ~sum >>> 0;
}

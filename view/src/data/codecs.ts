/** The format's codecs in place of zarrita's: they check sizes and checksums, and report missing chunks. */

import { registry } from "zarrita";
import { decodeBlosc } from "./blosc";
import { crc32c } from "./crc32c";
import { TextChunk } from "./text";

/** Array of each type; float16, which not every browser has, is read as its bits. */
const TYPES = {
  int8: Int8Array, uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, float16: Uint16Array, int32: Int32Array,
  float32: Float32Array, int64: BigInt64Array, uint64: BigUint64Array, float64: Float64Array,
} as const;
export type NumberType = keyof typeof TYPES;
export type Numbers = InstanceType<(typeof TYPES)[NumberType]>;

const MISSING = 2n ** 64n - 1n; // in a shard's index

/** Bytes of an array of this type and shape; throws Error if the type isn't in the format. */
export function sizeOf(type: string, shape: readonly number[]): number {
  const numbers = TYPES[type as NumberType];
  if (!numbers) throw new Error(`its type is ${JSON.stringify(type)}`);
  return shape.reduce((product, n) => product * n, numbers.BYTES_PER_ELEMENT);
}

/** Little-endian bytes as numbers. */
export function numbersOf(type: NumberType, bytes: Uint8Array): Numbers {
  const aligned = bytes.byteOffset % TYPES[type].BYTES_PER_ELEMENT ? bytes.slice() : bytes;
  const n = aligned.length / TYPES[type].BYTES_PER_ELEMENT;
  return new TYPES[type](aligned.buffer as ArrayBuffer, aligned.byteOffset, n);
}

/** The bytes before the checksum; throws Error if the checksum is wrong. */
export function checked(bytes: Uint8Array): Uint8Array {
  const content = bytes.subarray(0, Math.max(bytes.length - 4, 0));
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const isIntact = bytes.length >= 4 && crc32c(content) === view.getUint32(content.length, true);
  if (!isIntact) throw new Error("its checksum is wrong");
  return content;
}

interface Meta {
  dataType: string;
  shape: number[];
}
type Kind = "array_to_bytes" | "bytes_to_bytes";
type Decode = (bytes: Uint8Array, meta: Meta) => unknown;

function register(name: string, kind: Kind, decode: Decode): void {
  const fromConfig = (configuration: { endian?: string } | undefined, meta: Meta) => {
    if (configuration?.endian === "big") throw new Error("its bytes are big-endian");
    const computeEncodedSize = (n: number) => (name === "crc32c" ? n + 4 : n);
    return { kind, decode: (bytes: Uint8Array) => decode(bytes, meta), computeEncodedSize };
  };
  registry.set(name, async () => ({ fromConfig }) as never);
}

registry.clear();
register("crc32c", "bytes_to_bytes", checked);
register("blosc", "bytes_to_bytes", (bytes, { dataType, shape }) =>
  decodeBlosc(bytes, dataType === "string" ? TextChunk.sizeIn(bytes) : sizeOf(dataType, shape)),
);
register("vlen-utf8", "array_to_bytes", (bytes, { shape }) => {
  return { data: new TextChunk(bytes, shape[0]!), shape, stride: [1] };
});
register("bytes", "array_to_bytes", (bytes, { dataType, shape }) => {
  if (bytes.length !== sizeOf(dataType, shape)) throw new Error(`it holds ${bytes.length} bytes`);
  const data = numbersOf(dataType as NumberType, bytes);
  if (data instanceof BigUint64Array && data.includes(MISSING)) throw new Error("its shard lacks an inner chunk");
  return { data, shape, stride: shape.map((_, axis) => shape.slice(axis + 1).reduce((product, n) => product * n, 1)) };
});

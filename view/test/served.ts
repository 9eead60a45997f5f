/** Runs and indexes in memory or in a folder, and a `fetch` that serves them. */

import { existsSync, readFileSync } from "node:fs";
import { crc32c } from "../src/data/crc32c";

let nServed = 0;

type Values =
  Int8Array | Uint8Array | Int16Array | Uint16Array | Int32Array | Float32Array | Float64Array | BigInt64Array;
const TYPES: [unknown, string][] = [
  [Int8Array, "int8"],
  [Uint8Array, "uint8"],
  [Int16Array, "int16"],
  [Uint16Array, "uint16"],
  [Int32Array, "int32"],
  [Float32Array, "float32"],
  [Float64Array, "float64"],
  [BigInt64Array, "int64"],
];

/** Bytes with their checksum. */
export function summed(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(bytes.length + 4);
  out.set(bytes);
  new DataView(out.buffer).setUint32(bytes.length, crc32c(bytes), true);
  return out;
}

function encodedTexts(texts: string[], n: number): Uint8Array {
  const parts = Array.from({ length: n }, (_, i) => new TextEncoder().encode(texts[i] ?? ""));
  const out = new Uint8Array(parts.reduce((sum, { length }) => sum + 4 + length, 4));
  const view = new DataView(out.buffer);
  view.setUint32(0, n, true);
  let at = 4;
  for (const part of parts) {
    view.setUint32(at, part.length, true);
    out.set(part, at + 4);
    at += 4 + part.length;
  }
  return out;
}

/** A Zarr group that is written without Blosc, as the format allows. */
export class Group {
  readonly files = new Map<string, Uint8Array>();
  readonly nodes: Record<string, any> = {};

  constructor(public attributes: Record<string, unknown>) {}

  group(path: string, attributes: Record<string, unknown>): this {
    this.nodes[path] = { zarr_format: 3, node_type: "group", attributes };
    return this;
  }

  array(path: string, values: Values | string[], shape = [values.length], chunk = shape, more: object = {}): this {
    const type = Array.isArray(values)
      ? "string"
      : TYPES.find(([kind]) => values instanceof (kind as typeof Int8Array))![1];
    const bytes = { name: type === "string" ? "vlen-utf8" : "bytes", configuration: { endian: "little" } };
    this.nodes[path] = {
      zarr_format: 3,
      node_type: "array",
      shape,
      data_type: type,
      attributes: {},
      fill_value: type === "string" ? "" : 0,
      chunk_grid: { name: "regular", configuration: { chunk_shape: chunk } },
      chunk_key_encoding: { name: "default", configuration: { separator: "." } },
      codecs: [bytes, { name: "crc32c" }],
      ...more,
    };
    const width = shape.slice(1).reduce((product, n) => product * n, 1);
    for (let i = 0; i * chunk[0]! < Math.max(shape[0]!, 1); i++) {
      const from = i * chunk[0]! * width,
        n = chunk[0]! * width;
      let encoded: Uint8Array;
      if (Array.isArray(values)) encoded = encodedTexts(values.slice(from, from + n), n);
      else {
        const padded = new (values.constructor as typeof Float32Array)(n);
        padded.set(values.subarray(from, from + n) as Float32Array);
        encoded = new Uint8Array(padded.buffer);
      }
      this.files.set(`${path}/c.${[i, ...shape.slice(1).map(() => 0)].join(".")}`, summed(encoded));
    }
    return this;
  }

  /** (row, column) float32 in shards of 1024 rows, with inner chunks `width` columns wide. */
  sharded(path: string, values: Float32Array, [n, columns]: [number, number], width: number): this {
    const nInner = Math.ceil(columns / width),
      shard = [1024, nInner * width];
    const inner = [{ name: "bytes", configuration: { endian: "little" } }, { name: "crc32c" }];
    const configuration = { chunk_shape: [1024, width], codecs: inner, index_codecs: inner, index_location: "end" };
    this.array(path, new Float32Array(0), [0, columns], shard, {
      shape: [n, columns],
      codecs: [{ name: "sharding_indexed", configuration }],
    });
    for (let row = 0; row * 1024 < n; row++) {
      const index = new BigUint64Array(2 * nInner),
        parts: Uint8Array[] = [];
      for (let k = 0; k < nInner; k++) {
        const part = new Float32Array(1024 * width);
        for (let i = 0; i < 1024 && row * 1024 + i < n; i++) {
          for (let j = 0; j < width && k * width + j < columns; j++)
            part[i * width + j] = values[(row * 1024 + i) * columns + k * width + j]!;
        }
        index.set([BigInt(parts.reduce((sum, { length }) => sum + length, 0)), BigInt(part.byteLength + 4)], 2 * k);
        parts.push(summed(new Uint8Array(part.buffer)));
      }
      this.files.set(`${path}/c.${row}.0`, Buffer.concat([...parts, summed(new Uint8Array(index.buffer))]));
    }
    return this;
  }

  get(key: string): Uint8Array | undefined {
    if (key !== "zarr.json") return this.files.get(key);
    const document = {
      zarr_format: 3,
      node_type: "group",
      attributes: this.attributes,
      consolidated_metadata: { metadata: this.nodes },
    };
    return new TextEncoder().encode(JSON.stringify(document));
  }
}

/** Files of a folder, given relative to view/. */
export const folder = (path: string) => ({
  get: (key: string) => (existsSync(`${path}/${key}`) ? new Uint8Array(readFileSync(`${path}/${key}`)) : undefined),
});

export interface Served {
  /** Address of the page; another one each time, since what was read is kept by address. */
  base: string;
  /** Requests so far: address below the page's, with the range if one was asked for. */
  requests: string[];
  bytes: number;
}

/** Replaces `fetch`, by one that serves what lies below each prefix of the page's address. */
export function serve(
  places: Record<string, { get(key: string): Uint8Array | undefined }>,
  { ranges = true, answer = undefined as ((path: string) => Response | undefined) | undefined } = {},
): Served {
  const served: Served = { base: `http://view.test/${nServed++}/`, requests: [], bytes: 0 };
  globalThis.fetch = async (input, init) => {
    const path = String(input).replace(served.base, "");
    const range = new Headers(init?.headers).get("Range");
    served.requests.push(range ? `${path} ${range}` : path);
    const prefix = Object.keys(places).find((one) => path.startsWith(one));
    const own = answer?.(path);
    if (own) return own;
    const whole = prefix === undefined ? undefined : places[prefix]!.get(path.slice(prefix.length));
    if (!whole) return new Response("not here", { status: 404 });
    const [, from, to] = /^bytes=(\d*)-(\d*)$/.exec(range ?? "") ?? [];
    const part =
      !range || !ranges ? whole : from ? whole.slice(Number(from), Number(to) + 1) : whole.slice(-Number(to));
    served.bytes += part.length;
    return new Response(part as BodyInit, {
      status: range && ranges ? 206 : 200,
      headers: { "Content-Length": String(part.length) },
    });
  };
  return served;
}

/** view.json of one run and its index. */
export function manifest(...names: string[]): { get(): Uint8Array } {
  const runs = names.map((name, i) => ({ name, run: `runs/${i}/`, index: `indexes/${i}/` }));
  return { get: () => new TextEncoder().encode(JSON.stringify({ format: "lorascope.view", format_version: 1, runs })) };
}

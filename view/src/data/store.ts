/** A Zarr group behind a web address. */

import * as zarr from "zarrita";
import { decodeBlosc } from "./blosc";
import { Cache } from "./cache";
import { checked, type Numbers, numbersOf, type NumberType, sizeOf } from "./codecs";
import { MAX_CHUNK_BYTES, MAX_TEXT_BYTES, TABLE_CHUNK } from "./format";
import type { TextChunk } from "./text";
import { DataError } from "./types";

const MIB = 1024 ** 2;
const MAX_ROOT_BYTES = 32 * MIB, MAX_NODE_BYTES = MIB / 4;
/** Cache of all runs: compressed chunks of states, decoded chunks of everything else. */
const CACHE = new Cache(48 * MIB);
/** What may be absent: nodes, digests of rows that aren't committed, and scores that the first writers left empty. */
const OPTIONAL = /\/zarr\.json$|^\/rows\/(digest|commit)\/c\.|^\/samples\/base_\w+\/c\./;

/** Metadata of an array of the format, or of a group. */
interface Node {
  node_type: "array" | "group";
  attributes: Record<string, unknown>;
  consolidated_metadata?: { metadata?: Record<string, Node> };
  shape: number[];
  data_type: string;
  chunk_grid: { configuration: { chunk_shape: number[] } };
  chunk_key_encoding: { name: string; configuration: { separator: string } };
  codecs: { name: string; configuration?: { chunk_shape?: number[]; codecs?: { name: string }[] } }[];
}
type Range = zarr.RangeQuery;
export type Chunk = Numbers | TextChunk;

function partOf(whole: Uint8Array, range: Range): Uint8Array {
  if ("suffixLength" in range) return whole.subarray(-range.suffixLength);
  return whole.subarray(range.offset, range.offset + range.length);
}

function headerOf(range: Range): string {
  if ("suffixLength" in range) return `bytes=-${range.suffixLength}`;
  return `bytes=${range.offset}-${range.offset + range.length - 1}`;
}

/** Shape of a chunk, or of an inner chunk of a shard. */
export function chunkShape(node: Node): number[] {
  return node.codecs[0]?.configuration?.chunk_shape ?? node.chunk_grid.configuration.chunk_shape;
}

/** Whether an array's chunks are as the format demands; its shape and type were checked before. */
function hasValidChunks({ shape = [], data_type: type = "", codecs, ...node }: Partial<Node>): boolean {
  const chunk = node.chunk_grid?.configuration?.chunk_shape ?? [], keys = node.chunk_key_encoding;
  const shard = codecs?.[0]?.configuration, inner = shard?.chunk_shape;
  const isWhole = (n: number, axis: number) => n > 0 && (axis === 0 || inner !== undefined || n === shape[axis]);
  if (chunk.length !== shape.length || !chunk.every((n, axis) => Number.isInteger(n) && isWhole(n, axis))) return false;
  const isPart = (n: number, axis: number) => Number.isInteger(n) && n > 0 && chunk[axis]! % n === 0;
  const isShard = codecs?.[0]?.name === "sharding_indexed" && Array.isArray(inner) && inner.length === chunk.length;
  if (inner !== undefined && !(isShard && inner.every(isPart))) return false;
  if (type === "string" ? chunk[0]! > TABLE_CHUNK : sizeOf(type, chunk) > MAX_CHUNK_BYTES) return false;
  if (keys?.name !== "default" || keys.configuration?.separator !== ".") return false;
  return (shard?.codecs ?? codecs)?.at(-1)?.name === "crc32c";
}

async function reached<T>(url: URL, answer: Promise<T>): Promise<T> {
  try {
    return await answer;
  } catch {
    const advice = "see whether its server runs and, if it isn't this page's, lets other origins read (CORS)";
    throw new DataError(`can't reach ${url.href}: ${advice}`);
  }
}

/** A response's bytes; undefined if there are more than `limit`. Its announced length may be that of a compressed body. */
async function bodyOf(response: Response, limit: number): Promise<Uint8Array | undefined> {
  const parts: Uint8Array[] = [], reader = response.body?.getReader();
  let n = 0;
  const isLong = Number(response.headers.get("Content-Length")) > limit;
  for (let part; !isLong && n <= limit && (part = (await reader?.read())?.value); n += part.length) parts.push(part);
  if (isLong || n > limit) return void reader?.cancel();
  const whole = new Uint8Array(n);
  for (const part of parts.reverse()) whole.set(part, (n -= part.length));
  return whole;
}

export class Store implements zarr.AsyncReadable {
  #nodes = new Map<string, Node>();
  #arrays = new Map<string, Promise<zarr.Array<zarr.DataType, Store>>>();
  #isConsolidated = false;
  #knowsRanges = true;

  /** `repair` says what to do about a broken chunk. */
  constructor(readonly url: string, readonly name: string, readonly repair: string) {}

  /** The root's attributes; reads the consolidated metadata of every node too. */
  async attributes(): Promise<Record<string, unknown>> {
    const bytes = await this.#request("/zarr.json", MAX_ROOT_BYTES);
    const root = bytes && this.#parse("/zarr.json", bytes);
    if (root?.node_type !== "group") throw new DataError(`there is no Zarr group at ${this.url}`);
    const nodes = root.consolidated_metadata?.metadata;
    this.#isConsolidated = nodes !== undefined;
    this.#nodes = new Map(Object.entries(nodes ?? {}).map(([path, node]) => [`/${path}`, node]));
    return root.attributes ?? {};
  }

  /** A node's metadata; undefined if there is no such node. */
  async node(path: string): Promise<Node | undefined> {
    if (this.#isConsolidated || this.#nodes.has(`/${path}`)) return this.#nodes.get(`/${path}`);
    const bytes = await this.#request(`/${path}/zarr.json`, MAX_NODE_BYTES);
    if (!bytes) return undefined;
    const node = this.#parse(`/${path}/zarr.json`, bytes);
    this.#nodes.set(`/${path}`, node);
    return node;
  }

  /** The metadata of an array that must be there, with this shape and one of these types. */
  async array(path: string, shape: readonly number[], ...types: string[]): Promise<Node> {
    const node = await this.node(path);
    if (node?.node_type !== "array") throw new DataError(`${this.name} has no array ${path}; ${this.repair}`);
    const isAsked = types.includes(node.data_type) && JSON.stringify(node.shape) === JSON.stringify(shape);
    if (!isAsked || !hasValidChunks(node)) {
      throw new DataError(`array ${path} of ${this.name} doesn't follow its format; ${this.repair}`);
    }
    return node;
  }

  /** One chunk, or inner chunk of a shard, decoded whole. */
  chunk(path: string, place: number[]): Promise<Chunk> {
    const read = async () => {
      let array = this.#arrays.get(path);
      if (!array) array = zarr.open.v3(zarr.root(this as Store).resolve(path), { kind: "array" });
      this.#arrays.set(path, array);
      array.catch(() => this.#arrays.delete(path));
      return (await (await array).getChunk(place)).data as unknown as Chunk;
    };
    const size = (chunk: Chunk) => chunk.byteLength;
    return CACHE.get(`${this.url} ${path} ${place}`, () => this.#withName(path, place, read), size);
  }

  /** The numbers of `n` tokens of one chunk; only the blocks that contain them are decoded. */
  async rows(path: string, node: Node, token: number, n = 1): Promise<Numbers> {
    const shape = node.chunk_grid.configuration.chunk_shape, type = node.data_type as NumberType;
    const place = shape.map((n, axis) => (axis === 0 ? Math.floor(token / n) : 0));
    const key: zarr.AbsolutePath = `/${path}/c.${place.join(".")}`;
    return await this.#withName(path, place, async () => {
      const content = await this.#kept(key, checked);
      const size = sizeOf(type, shape), width = size / shape[0]!;
      const start = (token % shape[0]!) * width, stop = start + n * width;
      const isPlain = !node.codecs.some(({ name }) => name === "blosc");
      if (isPlain && content.length !== size) throw new Error(`it holds ${content.length} bytes`);
      const part = isPlain ? content.slice(start, stop) : decodeBlosc(content, size, start, stop);
      return numbersOf(type, part);
    });
  }

  /** For zarrita: a chunk, or a node's metadata as text. */
  async get(key: zarr.AbsolutePath): Promise<Uint8Array | undefined> {
    const end = key.lastIndexOf("/"), node = await this.node(key.slice(1, end));
    if (key.endsWith("/zarr.json")) return node && new TextEncoder().encode(JSON.stringify(node));
    const { data_type: type, chunk_grid: grid } = node!;
    const decoded = type === "string" ? MAX_TEXT_BYTES : sizeOf(type, grid.configuration.chunk_shape);
    return await this.#request(key, decoded * 1.02 + 1024); // headers, checksums and a shard's index take less
  }

  /** For zarrita: part of a shard. */
  async getRange(key: zarr.AbsolutePath, range: Range): Promise<Uint8Array | undefined> {
    if (this.#knowsRanges) return await this.#request(key, MAX_CHUNK_BYTES, range);
    return partOf(await this.#kept(key, (whole) => whole), range); // the server sends shards whole
  }

  /** A chunk's bytes after `check`, kept encoded, since only parts of it are decoded. */
  #kept(key: zarr.AbsolutePath, check: (bytes: Uint8Array) => Uint8Array): Promise<Uint8Array> {
    const read = async () => check((await this.get(key))!);
    return CACHE.get(`${this.url} ${key}`, read, (bytes) => bytes.length);
  }

  async #request(key: string, limit: number, range?: Range): Promise<Uint8Array | undefined> {
    const url = new URL(key.slice(1), this.url);
    // If a server says nothing about caching, a browser's cache may still have another run of the same address.
    const options: RequestInit = { cache: "no-cache", headers: range ? { Range: headerOf(range) } : {} };
    const response = await reached(url, fetch(url, options));
    if (!response.ok) void response.body?.cancel();
    // A bucket whose objects can't be listed answers 403 for a missing one.
    if (response.status === 404 || (response.status === 403 && OPTIONAL.test(key))) {
      if (OPTIONAL.test(key)) return undefined;
      throw new DataError(`chunk ${key.slice(1)} of ${this.name} is missing; ${this.repair}`);
    }
    if (!response.ok) throw new DataError(`${url.href} answers ${response.status} ${response.statusText}`);
    const bytes = await reached(url, bodyOf(response, limit));
    if (!bytes) throw new DataError(`${key.slice(1)} of ${this.name} is larger than its format allows; ${this.repair}`);
    if (!range || response.status === 206) return bytes;
    this.#knowsRanges = false;
    return partOf(bytes, range);
  }

  #parse(key: string, bytes: Uint8Array): Node {
    try {
      return JSON.parse(new TextDecoder().decode(bytes)) as Node;
    } catch {
      throw new DataError(`${key.slice(1)} of ${this.name} isn't JSON; ${this.repair}`);
    }
  }

  /** The value of `read`; its errors get the chunk's name. */
  async #withName<T>(path: string, place: number[], read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      const cause = zarr.isZarritaError(error) && error.cause instanceof Error ? error.cause : (error as Error);
      if (cause instanceof DataError) throw cause;
      const chunk = `${path}/c.${place.join(".")}`;
      throw new DataError(`chunk ${chunk} of ${this.name} is broken: ${cause.message}; ${this.repair}`);
    }
  }
}

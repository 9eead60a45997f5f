/** A Zarr group behind a web address. */

import * as zarr from "zarrita";
import { decodeBlosc } from "./blosc";
import { Cache } from "./cache";
import { checked, type Numbers, numbersOf, type NumberType, sizeOf } from "./codecs";
import type { TextChunk } from "./text";
import { DataError } from "./types";

const MIB = 1024 ** 2;
const MAX_ROOT_BYTES = 32 * MIB, MAX_NODE_BYTES = MIB / 4, MAX_CHUNK_BYTES = 2048 * MIB, MAX_TEXT_BYTES = 64 * MIB;
/** Compressed chunks of states and decoded ones of everything else, of all runs. */
const CACHE = new Cache(64 * MIB);
/** What may be absent: nodes, digests of rows that aren't committed, and scores that the first writers left empty. */
const OPTIONAL = /\/zarr\.json$|^\/rows\/digest\/c\.|^\/samples\/base_\w+\/c\./;

/** Metadata of an array as the format has it, or of a group. */
interface Node {
  node_type: "array" | "group";
  attributes: Record<string, unknown>;
  shape: number[];
  data_type: string;
  chunk_grid: { configuration: { chunk_shape: number[] } };
  chunk_key_encoding: { name: string; configuration: { separator: string } };
  codecs: { name: string; configuration?: { chunk_shape?: number[]; codecs?: { name: string }[] } }[];
}
type Range = zarr.RangeQuery;
export type Chunk = Numbers | TextChunk;

function partOf(whole: Uint8Array, range: Range): Uint8Array {
  return "suffixLength" in range ? whole.subarray(-range.suffixLength) : whole.subarray(range.offset, range.offset + range.length);
}

/** Shape of what is decoded at once: a chunk, or an inner chunk of a shard. */
export function chunkShape(node: Node): number[] {
  return node.codecs[0]?.configuration?.chunk_shape ?? node.chunk_grid.configuration.chunk_shape;
}

function isStoredAsAsked(node: Partial<Node>): boolean {
  const { shape = [], data_type = "", codecs, chunk_key_encoding: keys } = node;
  const chunk = node.chunk_grid?.configuration?.chunk_shape ?? [];
  const isSharded = codecs?.[0]?.configuration?.chunk_shape !== undefined;
  const isWhole = chunk.every((n, axis) => Number.isInteger(n) && n > 0 && (axis === 0 || isSharded || n === shape[axis]));
  const isSmall = data_type === "string" ? chunk[0]! <= 65_536 : sizeOf(data_type, chunk) < MAX_CHUNK_BYTES;
  return (
    chunk.length === shape.length && isWhole && isSmall && keys?.name === "default" && keys.configuration?.separator === "." &&
    (codecs?.[0]?.configuration?.codecs ?? codecs)?.at(-1)?.name === "crc32c"
  );
}

export class Store implements zarr.AsyncReadable {
  #nodes = new Map<string, Node>();
  #arrays = new Map<string, Promise<zarr.Array<zarr.DataType, Store>>>();
  #isConsolidated = false;
  #knowsRanges = true;

  /** `repair` says what to do about a broken chunk. */
  constructor(readonly url: string, readonly name: string, readonly repair: string) {}

  /** The root's attributes, with which every node's metadata comes. */
  async attributes(): Promise<Record<string, unknown>> {
    const bytes = await this.#request("/zarr.json", MAX_ROOT_BYTES);
    const root = bytes && this.#parse("/zarr.json", bytes);
    if (root?.node_type !== "group") throw new DataError(`there is no Zarr group at ${this.url}`);
    const nodes = (root as { consolidated_metadata?: { metadata?: Record<string, Node> } }).consolidated_metadata?.metadata;
    this.#isConsolidated = nodes !== undefined;
    this.#nodes = new Map(Object.entries(nodes ?? {}).map(([path, node]) => [`/${path}`, node]));
    return root.attributes;
  }

  /** A node's metadata; undefined where there is no such node. */
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
    if (!types.includes(node.data_type) || JSON.stringify(node.shape) !== JSON.stringify(shape) || !isStoredAsAsked(node)) {
      throw new DataError(`array ${path} of ${this.name} isn't as its format asks for; ${this.repair}`);
    }
    return node;
  }

  /** One chunk, or inner chunk of a shard, decoded whole. */
  chunk(path: string, place: number[]): Promise<Chunk> {
    return CACHE.get(`${this.url} ${path} ${place}`, async () => {
      let array = this.#arrays.get(path);
      if (!array) this.#arrays.set(path, (array = zarr.open.v3(zarr.root(this as Store).resolve(path), { kind: "array" })));
      return await this.#telling(path, place, async () => (await (await array).getChunk(place)).data as unknown as Chunk);
    }, (chunk) => chunk.byteLength);
  }

  /** The numbers of one token in a chunk that is mostly not wanted: no more of it is decoded than the blocks around them. */
  async row(path: string, node: Node, token: number): Promise<Numbers> {
    const shape = node.chunk_grid.configuration.chunk_shape, type = node.data_type as NumberType;
    const place = shape.map((n, axis) => (axis === 0 ? Math.floor(token / n) : 0));
    const key: zarr.AbsolutePath = `/${path}/c.${place.join(".")}`;
    return await this.#telling(path, place, async () => {
      const content = await CACHE.get(`${this.url} ${key}`, async () => checked((await this.get(key))!), (bytes) => bytes.length);
      const size = sizeOf(type, shape), width = size / shape[0]!, start = (token % shape[0]!) * width;
      if (node.codecs.some(({ name }) => name === "blosc")) return numbersOf(type, decodeBlosc(content, size, start, start + width));
      if (content.length !== size) throw new Error(`it holds ${content.length} bytes`);
      return numbersOf(type, content.slice(start, start + width));
    });
  }

  /** For zarrita: a chunk, or a node's metadata as text. */
  async get(key: zarr.AbsolutePath): Promise<Uint8Array | undefined> {
    const end = key.lastIndexOf("/"), node = await this.node(key.slice(1, end));
    if (key.endsWith("/zarr.json")) return node && new TextEncoder().encode(JSON.stringify(node));
    const decoded = node && node.data_type !== "string" ? sizeOf(node.data_type, node.chunk_grid.configuration.chunk_shape) : MAX_TEXT_BYTES;
    return await this.#request(key, decoded * 1.02 + 1024); // headers, checksums and a shard's index take less
  }

  /** For zarrita: part of a shard. */
  async getRange(key: zarr.AbsolutePath, range: Range): Promise<Uint8Array | undefined> {
    if (this.#knowsRanges) return await this.#request(key, MAX_CHUNK_BYTES, range);
    // The server sends shards whole, so each is kept for its other parts.
    const whole = await CACHE.get(`${this.url} ${key}`, async () => (await this.get(key))!, (bytes) => bytes.length);
    return partOf(whole, range);
  }

  async #request(key: string, limit: number, range?: Range): Promise<Uint8Array | undefined> {
    const url = new URL(key.slice(1), this.url);
    const wanted = range && ("suffixLength" in range ? `-${range.suffixLength}` : `${range.offset}-${range.offset + range.length - 1}`);
    let response: Response, bytes: Uint8Array;
    try {
      // What a run's root says changes while it is captured, and browsers may keep files.
      response = await fetch(url, wanted ? { headers: { Range: `bytes=${wanted}` } } : limit === MAX_ROOT_BYTES ? { cache: "no-cache" } : {});
      if (Number(response.headers.get("Content-Length")) > limit) throw new DataError(`${key} of ${this.name} is larger than its format allows`);
      bytes = new Uint8Array(await response.arrayBuffer());
    } catch (error) {
      if (error instanceof DataError) throw error;
      throw new DataError(`can't reach ${url.href}: see whether its server runs and, if it isn't this page's, lets other origins read (CORS)`);
    }
    // A bucket whose objects can't be listed says 403 of what isn't there.
    if (response.status === 404 || (response.status === 403 && OPTIONAL.test(key))) {
      if (OPTIONAL.test(key)) return undefined;
      throw new DataError(`chunk ${key.slice(1)} of ${this.name} is missing; ${this.repair}`);
    }
    if (!response.ok) throw new DataError(`${url.href} answers ${response.status} ${response.statusText}`);
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

  /** What `read` gives; what it finds wrong is told with the chunk's name. */
  async #telling<T>(path: string, place: number[], read: () => Promise<T>): Promise<T> {
    try {
      return await read();
    } catch (error) {
      const cause = zarr.isZarritaError(error) && error.cause instanceof Error ? error.cause : (error as Error);
      if (cause instanceof DataError) throw cause;
      throw new DataError(`chunk ${path}/c.${place.join(".")} of ${this.name} is broken: ${cause.message}; ${this.repair}`);
    }
  }
}

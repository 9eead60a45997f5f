import assert from "node:assert/strict";
import { test } from "node:test";
import { decodeBlosc } from "../src/data/blosc";
import { crc32c } from "../src/data/crc32c";
import { decodeLz4 } from "../src/data/lz4";
import { fileBytes } from "./files";
import described from "./fixtures/blosc.json";

/** The same bytes as `plain` of fixtures/make_blosc.py. */
function plain(kind: string, n: number, seed: number): Uint8Array {
  return Uint8Array.from({ length: n }, (_, at) => {
    const i = (at + seed) >>> 0;
    let mixed = Math.imul(i, 2654435761);
    mixed = Math.imul(mixed ^ (mixed >>> 15), 2246822519);
    mixed = (mixed ^ (mixed >>> 13)) >>> 0;
    if (kind === "ramp") return i >>> 6;
    return kind === "random" || mixed % 16 < 2 ? mixed >>> 24 : 7;
  });
}

const all = fileBytes("test/fixtures/blosc.bin");
const starts = described.map((_, i) => described.slice(0, i).reduce((sum, { length }) => sum + length, 0));
const containers = described.map(({ length }, i) => all.slice(starts[i], starts[i]! + length));

described.forEach((one, i) => {
  test(`${one.cname}, ${one.shuffle} shuffle, items of ${one.itemsize}, ${one.kind} ${one.n}, blocks of ${one.block}`, () => {
    assert.equal(crc32c(containers[i]!), one.crc32c);
    const expected = plain(one.kind, one.n, one.seed);
    assert.deepEqual(decodeBlosc(containers[i]!, one.n), expected);
    for (const [start, stop] of [
      [0, 1],
      [one.n - 1, one.n],
      [one.n >> 2, one.n >> 1],
      [one.n >> 1, one.n >> 1],
    ] as const) {
      assert.deepEqual(decodeBlosc(containers[i]!, one.n, start, stop), expected.subarray(start, stop));
    }
  });
});

test("every kind of container is among them", () => {
  const flags = containers.map((container) => container[2]!);
  for (const flag of [1, 2, 4, 16]) {
    assert.ok(flags.some((one) => one & flag) && flags.some((one) => !(one & flag)), `flag ${flag}`);
  }
  assert.ok(
    containers.some((one) => new DataView(one.buffer).getUint32(8, true) < new DataView(one.buffer).getUint32(4, true)),
  );
});

test("a part decodes no more than the blocks that hold it", () => {
  const view = (container: Uint8Array) => new DataView(container.buffer);
  const i = containers.findIndex(
    (one) => !(one[2]! & 2) && view(one).getUint32(4, true) > 2 * view(one).getUint32(8, true),
  );
  const broken = containers[i]!.slice();
  const [blockSize, first, second] = [8, 16, 20].map((at) => view(broken).getUint32(at, true)) as [
    number,
    number,
    number,
  ];
  broken.fill(0xff, first, second);
  const { n, seed, kind } = described[i]!;
  assert.throws(() => decodeBlosc(broken, n, 0, 10), /is broken/);
  assert.deepEqual(
    decodeBlosc(broken, n, blockSize, blockSize + 9),
    plain(kind, n, seed).subarray(blockSize, blockSize + 9),
  );
});

test("crc32c has the check value of its definition, and any length", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283);
  assert.equal(crc32c(new Uint8Array(0)), 0);
  assert.equal(crc32c(new Uint8Array(32)), 0x8a9136aa); // RFC 3720, B.4
  assert.equal(crc32c(new Uint8Array(32).fill(255)), 0x62a8ab43);
});

const broken = (change: (bytes: Uint8Array) => void): Uint8Array => {
  const copy = containers[0]!.slice();
  change(copy);
  return copy;
};
const size = described[0]!.n;

for (const [name, bytes, message] of [
  ["shorter than a header", containers[0]!.subarray(0, 15), /it is cut off/],
  ["cut off", containers[0]!.subarray(0, 40), /it is cut off/],
  ["of another version", broken((bytes) => (bytes[0] = 1)), /header is broken/],
  ["with items of no bytes", broken((bytes) => (bytes[3] = 0)), /header is broken/],
  ["of another size", broken((bytes) => bytes.fill(255, 4, 8)), /it announces 4294967295 bytes instead of 9000/],
  ["with blocks of no bytes", broken((bytes) => bytes.fill(0, 8, 12)), /header is broken/],
  ["with a block outside", broken((bytes) => bytes.fill(255, 16, 20)), /header is broken/],
  ["with a block in the header", broken((bytes) => bytes.fill(0, 16, 20)), /header is broken/],
  ["with another compressor", broken((bytes) => (bytes[2] = (bytes[2]! & 31) | (3 << 5))), /isn't in the format/],
] as const) {
  test(`a container ${name} is refused`, () => assert.throws(() => decodeBlosc(bytes, size), message));
}

for (const [name, block, n] of [
  ["is too short", [0x10, 65], 2],
  ["is too long", [0x20, 65, 66], 1],
  ["reaches before its start", [0x10, 65, 2, 0], 5],
  ["goes back by nothing", [0x10, 65, 0, 0], 5],
  ["ends within a length", [0xf0, 255], 400],
  ["ends within literals", [0x50, 65], 5],
] as const) {
  test(`an LZ4 block that ${name} is refused`, () => {
    assert.throws(() => decodeLz4(Uint8Array.from(block), new Uint8Array(n)), /LZ4 block is broken/);
  });
}

test("an LZ4 match may repeat what it writes", () => {
  const out = new Uint8Array(12);
  decodeLz4(Uint8Array.of(0x26, 1, 2, 2, 0, 0), out);
  assert.deepEqual([...out], [1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2]);
});

test("a container that announces more or fewer bytes than its zstd block holds is refused", () => {
  const isWhole = (one: Uint8Array) => {
    const [size, block] = [4, 8].map((at) => new DataView(one.buffer).getUint32(at, true)) as [number, number];
    return one[2]! >> 5 === 4 && !(one[2]! & 2) && one[2]! & 16 && block >= size;
  };
  const whole = containers.filter(isWhole);
  assert.ok(whole.length > 2);
  for (const one of whole) {
    const size = new DataView(one.buffer).getUint32(4, true);
    for (const announced of [size + 1, size + 4096, size - 1]) {
      const changed = one.slice();
      new DataView(changed.buffer).setUint32(4, announced, true);
      new DataView(changed.buffer).setUint32(8, announced, true);
      assert.throws(() => decodeBlosc(changed, announced), `${announced} instead of ${size}`);
    }
  }
});

for (const [what, i, changes] of [
  ["32,512 sequences, each up to 128 kB long", 17, { 222: 255, 258: 251 }],
  ["weights that take no bits", 28, { 47: 254 }],
] as const) {
  test(`a few bytes of zstd can't keep the page busy: ${what}`, () => {
    const began = performance.now();
    const changed = Object.assign(containers[i]!.slice(), changes);
    assert.throws(() => decodeBlosc(changed, described[i]!.n), /invalid zstd data/);
    assert.ok(performance.now() - began < 300);
  });
}

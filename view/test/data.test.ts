import assert from "node:assert/strict";
import { test } from "node:test";
import { dataAt } from "../src/data/index";
import { type Cell, type Data, DataError, type Run } from "../src/data/types";
import { deltaOf } from "../src/numbers/delta";
import { effectiveWidth, jensenShannon, norm } from "../src/numbers/divergence";
import { ADAPTED, B, BASE, BIAS, EXPERT_MEASURES, expertValues, INDEX_JS, type Made, makeRun, N_TOKENS, RUN_JS, Z } from "./made";
import { type Group, manifest, serve, type Served, summed } from "./served";

async function opened(
  made: Made = {},
  change: (run: Group, index: Group) => void = () => {},
  options = {},
): Promise<{ data: Data; run: Run; served: Served }> {
  const { run, index } = makeRun(made);
  change(run, index);
  const served = serve({ "view.json": manifest("mine"), "runs/0/": run, "indexes/0/": index }, options);
  const data = dataAt(`${served.base}index.html`);
  return { data, run: await data.open(0), served };
}

const refused = (promise: Promise<unknown>, message: RegExp) =>
  assert.rejects(promise, (error: Error) => {
    assert.ok(error instanceof DataError, `${error.stack}`);
    assert.match(error.message, message);
    assert.ok(!error.message.includes("\n"));
    return true;
  });

const rowOf = (values: Float32Array, token: number) =>
  values.subarray((token * values.length) / N_TOKENS, ((token + 1) * values.length) / N_TOKENS);

function same(cell: Cell, base: Float32Array, delta: Float32Array, order: number[]): void {
  const { js, baseNorm, deltaNorm, ratio, effectiveWidth: width, jsPermuted } = cell;
  const expected = [
    jensenShannon(base, delta),
    norm(base),
    norm(delta),
    norm(delta) / norm(base),
    effectiveWidth(base),
    jensenShannon(
      base,
      Float32Array.from(order, (i) => delta[i]!),
    ),
  ];
  assert.deepEqual([js, baseNorm, deltaNorm, ratio, width, jsPermuted], expected);
}

test("a run opens with what is known of it, and two requests of metadata", async () => {
  const { run, served } = await opened();
  assert.deepEqual(
    [run.place, run.name, run.model, run.nRows, run.nCommittedRows, run.hasText],
    [0, "mine", "tiny", 1, 1, true],
  );
  assert.deepEqual([...run.samples.baseCe, ...run.samples.baseCorrect], [3, 4, 0, -1]);
  assert.deepEqual(
    served.requests.filter((path) => path.includes("zarr.json")),
    ["runs/0/zarr.json", "indexes/0/zarr.json"],
  );
  assert.ok(!served.requests.some((path) => /tokens\/|states|\/js|digest|commit|choices/.test(path)), served.requests.join());
  assert.equal(new Set(served.requests).size, served.requests.length);
});

test("a sample's tokens come from no more than the chunks that hold them", async () => {
  const { data, run, served } = await opened();
  const before = served.requests.length;
  const [tokens, again] = await Promise.all([data.tokens(run, 0, 1), data.tokens(run, 0, 1)]);
  const asked = served.requests.slice(before);
  assert.deepEqual(asked.filter((path) => /position|text|index.*js/.test(path)).sort(), [
    "indexes/0/adapters/a/js/c.1.0",
    "indexes/0/adapters/a/js/c.2.0",
    "runs/0/tokens/position/c.1",
    "runs/0/tokens/position/c.2",
    "runs/0/tokens/text/c.1",
    "runs/0/tokens/text/c.2",
  ]);
  assert.equal(new Set(asked).size, asked.length);
  assert.deepEqual(again, tokens);
  const { start, n, position, role, text, nll, js } = tokens;
  assert.deepEqual([start, n, [...position], [...role], text], [3, 2, [0, 1], [4, 4], ["Ünder", "<b>"]]);
  assert.deepEqual([[...nll], [...js]], [[NaN, 5], [...INDEX_JS.subarray(6)]]);
});

test("a cell is computed from base, factor, B and bias", async () => {
  const { data, run, served } = await opened();
  for (let token = 0; token < N_TOKENS; token++) {
    const z = rowOf(Z, token);
    same(await data.cell(run, 0, token, 0), rowOf(BASE[0]!, token), deltaOf(z.subarray(0, 1), B[0]!, 2), [2, 0, 1]);
    const cell = await data.cell(run, 0, token, 1);
    const delta = deltaOf(z.subarray(1), B[1]!, 0.5, BIAS);
    same(cell, rowOf(BASE[1]!, token), delta, [1, 3, 2, 0]);
    const sizes = cell.features.map(({ delta }) => Math.abs(delta));
    assert.deepEqual(
      sizes,
      [...sizes].sort((a, b) => b - a),
    );
    for (const { feature, base, delta: one } of cell.features)
      assert.deepEqual([base, one], [rowOf(BASE[1]!, token)[feature], delta[feature]]);
    assert.deepEqual(cell.directions, [
      {
        share: 0.75,
        score: 2 * z[2]!,
        top: [
          { token: 4, score: 9 },
          { token: 0, score: 8 },
        ],
      },
      {
        share: 0.25,
        score: z[1]! + z[2]!,
        top: [
          { token: 1, score: -7 },
          { token: 2, score: 6 },
        ],
      },
    ]);
    assert.deepEqual([cell.without, cell.withoutDirections], [null, null]);
  }
  assert.equal(served.requests.filter((path) => /states/.test(path)).length, 2);
});

test("in a pair run delta is adapted - base, and has no directions", async () => {
  const { data, run } = await opened({ stream: "pair" });
  const cell = await data.cell(run, 0, 2, 1);
  const base = rowOf(BASE[1]!, 2);
  same(
    cell,
    base,
    rowOf(ADAPTED[1]!, 2).map((value, i) => value - base[i]!),
    [1, 3, 2, 0],
  );
  assert.deepEqual([cell.directions, /factor/.test(cell.withoutDirections!)], [null, true]);
});

test("base may be float16", async () => {
  const bits = Uint16Array.of(0x3c00, 0xc000, 0x3800, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0); // 1, -2, 1/2 of the first token
  const change = (run: Group) => run.array("states/m.0/base", bits, [5, 3], [1024, 3], { data_type: "float16" });
  const { data, run } = await opened({}, change);
  same(await data.cell(run, 0, 0, 0), Float32Array.of(1, -2, 0.5), deltaOf(Z.subarray(0, 1), B[0]!, 2), [2, 0, 1]);
});

test("a component that the adapter leaves alone says so", async () => {
  const { data, run } = await opened({ rank: [1, 0] });
  const cell = await data.cell(run, 0, 2, 1);
  assert.match(cell.without!, /leaves this component alone/);
  assert.deepEqual([cell.features, cell.directions], [[], null]);
});

for (const states of ["none", "sample"] as const) {
  test(`states ${states}: what the capture measured stands in`, async () => {
    const { data, run, served } = await opened(
      { states },
      (run) => states === "sample" && run.array("rows/states", Uint8Array.of(0)),
    );
    assert.equal(run.hasStates(0), false);
    const cell = await data.cell(run, 0, 3, 1);
    assert.deepEqual(
      [cell.js, cell.baseNorm, cell.deltaNorm, cell.ratio, cell.effectiveWidth, cell.jsPermuted],
      [RUN_JS[7], 8, 2, 0.25, 9, NaN],
    );
    assert.match(cell.without!, states === "none" ? /the run keeps no states/ : /row keeps no states/);
    assert.equal(cell.withoutDirections, cell.without);
    assert.deepEqual([...(await data.tokens(run, 0, 1)).js], [...RUN_JS.subarray(6)]);
    assert.ok(!served.requests.some((path) => path.includes("/states/m")));
  });
}

test("a row with states has them, in a run that keeps some", async () => {
  const { data, run } = await opened({ states: "sample" });
  assert.deepEqual([run.hasStates(0), (await data.cell(run, 0, 0, 0)).without], [true, null]);
});

test("nothing by token is read of rows that aren't committed", async () => {
  for (const lost of [false, true]) {
    const drop = (run: Group) =>
      ["tokens/nll/c.0", "adapters/a/js/c.0.0", ...(lost ? ["rows/commit/c.0.0"] : [])].forEach((key) =>
        run.files.delete(key),
      );
    const { data, run, served } = await opened({ finished: false, committed: false, states: "none" }, drop);
    assert.deepEqual([run.nCommittedRows, run.committed(0), run.hasStates(0), run.finished], [0, false, false, false]);
    const { nll, js, text } = await data.tokens(run, 0, 0);
    assert.deepEqual([[...nll], [...js], text], [[NaN, NaN, NaN], Array(6).fill(NaN), ["One", " two", " three"]]);
    const cell = await data.cell(run, 0, 0, 0);
    assert.deepEqual([cell.js, cell.baseNorm, /not captured yet/.test(cell.without!)], [NaN, NaN, true]);
    assert.ok(!served.requests.some((path) => /nll|states|reductions|adapters\/a\/js/.test(path)));
  }
});

test("a copy of an unfinished run knows how many samples are missing", async () => {
  const copied = [{ finished: false, samples_incomplete: 3 }, { finished: true, samples_incomplete: 0 }];
  const { run } = await opened({ copied });
  assert.equal(run.nMissingSamples, 3);
  for (const whole of [undefined, "x", [null, { finished: true }]]) {
    assert.equal((await opened({ copied: whole })).run.nMissingSamples, null);
  }
});

test("an unfinished run recognises its committed rows by their digests", async () => {
  const { run } = await opened({ finished: false });
  assert.deepEqual([run.nCommittedRows, run.committed(4)], [1, true]);
});

test("without texts tokens are shown by their ids", async () => {
  const { data, run } = await opened({ text: false });
  assert.equal(run.hasText, false);
  assert.deepEqual((await data.tokens(run, 0, 0)).text, ["[11]", "[12]", "[13]"]);
  assert.deepEqual(await data.contexts(run, [1]), [{ token: 1, sample: 0, before: "11 …", text: "12 ", after: "13 " }]);
  assert.deepEqual(await data.search(run, "11", () => {}, new AbortController().signal), new Set());
});

test("replies are read by prompt, and only when they are asked for", async () => {
  const replies = ["It is.", "Arr!", "Arr!!", "", "<b>", "ü", "x", "y"];
  const { data, run, served } = await opened({ replies });
  assert.equal(run.adapters[0]!.nReplies, 8);
  assert.ok(!served.requests.some((path) => path.includes("/replies/")));
  assert.deepEqual(await data.replies(run, 0), [
    { prompt: "<i>0?", texts: replies.slice(0, 4) },
    { prompt: "<i>1?", texts: replies.slice(4) },
  ]);
  const without = await opened();
  assert.deepEqual(await without.data.replies(without.run, 0), []);
  const fewer = await opened({ replies: replies.slice(0, 7) });
  await refused(fewer.data.replies(fewer.run, 0), /the replies of mine aren't at the scales 0, 1, 1.5, 2; run `lorascope verify`/);
  const other = await opened({ replies }, (of) => of.array("adapters/a/replies/scale", new Float32Array(8)));
  await refused(other.data.replies(other.run, 0), /aren't at the scales/);
});

test("contexts stay in their sample and show gaps", async () => {
  const { data, run } = await opened();
  assert.deepEqual(await data.contexts(run, [0, 2, 3]), [
    { token: 0, sample: 0, before: "", text: "One", after: "… two three" },
    { token: 2, sample: 0, before: "One… two", text: " three", after: "" },
    { token: 3, sample: 1, before: "", text: "Ünder", after: "<b>" },
  ]);
});

test("a search finds samples that hold all words, reads texts once and can be stopped", async () => {
  const { data, run, served } = await opened();
  const shares: number[] = [];
  const search = (words: string) =>
    data.search(run, words, (share) => shares.push(share), new AbortController().signal);
  assert.deepEqual(
    [await search("THREE one"), await search("one ünder"), await search("ÜNDER<"), await search("two")],
    [new Set([0]), new Set(), new Set([1]), new Set([0])],
  );
  assert.equal(served.requests.filter((path) => path.includes("tokens/text/c.0")).length, 1);
  assert.deepEqual([shares.at(-1), shares.every((share) => share > 0 && share <= 1)], [1, true]);
  const other = await opened();
  const stopped = new AbortController();
  stopped.abort();
  await assert.rejects(
    other.data.search(other.run, "one", () => {}, stopped.signal),
    { name: "AbortError" },
  );
});

test("scores that weren't asked for may be absent, or without chunks", async () => {
  const without = await opened({}, (run) =>
    ["base_ce", "base_correct"].forEach((name) => delete run.nodes[`samples/${name}`]),
  );
  assert.deepEqual([...without.run.samples.baseCe, ...without.run.samples.baseCorrect], [NaN, NaN, -1, -1]);
  const empty = await opened({}, (run) => {
    Object.assign(run.nodes["samples/base_ce"], { fill_value: "NaN" });
    Object.assign(run.nodes["samples/base_correct"], { fill_value: -1 });
    ["base_ce", "base_correct"].forEach((name) => run.files.delete(`samples/${name}/c.0`));
  });
  assert.deepEqual([...empty.run.samples.baseCe, ...empty.run.samples.baseCorrect], [NaN, NaN, -1, -1]);
});

test("a run without consolidated metadata opens by its nodes", async () => {
  const { run } = makeRun({ finished: false });
  const { index } = makeRun();
  const plain = {
    get: (key: string) => {
      if (key === "zarr.json")
        return new TextEncoder().encode(JSON.stringify({ node_type: "group", attributes: run.attributes }));
      const node = key.endsWith("/zarr.json") && run.nodes[key.slice(0, -10)];
      return node ? new TextEncoder().encode(JSON.stringify(node)) : run.files.get(key);
    },
  };
  const { base } = serve({ "view.json": manifest("mine"), "runs/0/": plain, "indexes/0/": index });
  const data = dataAt(base);
  const found = await data.open(0);
  assert.deepEqual((await data.tokens(found, 0, 0)).text, ["One", " two", " three"]);
  assert.equal((await data.cell(found, 0, 0, 0)).without, null);
});

const attributes = (changed: object) => (run: Group) => Object.assign(run.attributes, changed);
for (const [name, change, message] of [
  ["another format", attributes({ format: "x" }), /mine isn't a run: its format is "x", not "lorascope.run"/],
  ["a newer version", attributes({ format_version: 4 }), /format version 4; this page reads 1, 2 and 3/],
  ["a run that is being set up", attributes({ static_digest: undefined }), /still being set up/],
  ["an unknown stream", attributes({ stream: "up" }), /attributes of mine aren't/],
  ["a wrong number of rows", attributes({ n_rows: 9e9 }), /attributes of mine aren't/],
  ["an adapter's name with a path", attributes({ adapters: ["../x"] }), /attributes of mine aren't/],
  [
    "an index of another run",
    (_: Group, index: Group) => attributes({ static_digest: "e" })(index),
    /index of mine is of another run, f{16}\/e, than is stored here, f{16}\/d{16}; run `lorascope view` again/,
  ],
  [
    "a capture of the same adapter on another model",
    (run: Group) => attributes({ fingerprint: "0".repeat(64) })(run),
    /index of mine is of another run, f{16}\/d{16}, than is stored here, 0{16}\/d{16};/,
  ],
  [
    "an index of another version",
    (_: Group, index: Group) => attributes({ format_version: 2 })(index),
    /index of mine is of another version/,
  ],
  [
    "an index without scales",
    (_: Group, index: Group) => index.group("adapters/a", {}),
    /the view index of mine has no scale; run `lorascope view` again/,
  ],
  [
    "no array of components",
    (run: Group) => delete run.nodes["components/path"],
    /mine has no array components\/path of at most 16384; run `lorascope verify` on it/,
  ],
  [
    "a component's name with a path",
    (run: Group) => run.array("components/path", ["m.0", "../../x"]),
    /mine has a component "..\/..\/x", which is no name/,
  ],
  [
    "a sample outside the tokens",
    (run: Group) => run.array("samples/token_stop", BigInt64Array.of(3n, 6n)),
    /sample 1 of mine has no place on the token axis/,
  ],
  [
    "samples that overlap",
    (run: Group) => run.array("samples/token_start", BigInt64Array.of(0n, 2n)),
    /sample 1 of mine has no place/,
  ],
  [
    "an array of another type",
    (run: Group) => run.array("samples/ce", Float32Array.of(1, 2)),
    /array samples\/ce of mine doesn't follow its format/,
  ],
  [
    "an array of another shape",
    (run: Group) => run.array("samples/ce", Float64Array.of(1, 2, 3)),
    /array samples\/ce of mine doesn't follow its format/,
  ],
  [
    "metadata that isn't any",
    (run: Group) => (run.nodes["samples/ce"] = { node_type: "array", data_type: "float64", shape: [2] }),
    /array samples\/ce of mine doesn't follow its format/,
  ],
  [
    "a huge table",
    (run: Group) => (run.nodes["samples/id"].shape = [2 ** 40]),
    /mine has no array samples\/id of at most/,
  ],
  ["more tokens than can be", attributes({ n_tokens: 2 ** 50, n_rows: 2 ** 40 }), /attributes of mine aren't/],
  ["no attributes", (run: Group) => (run.attributes = undefined as never), /its format is undefined/],
  [
    "a container that announces too much text",
    (run: Group) => {
      const container = new Uint8Array(20).fill(255);
      run.files.set("samples/id/c.0", summed(container));
      run.nodes["samples/id"].codecs.splice(1, 0, { name: "blosc" });
    },
    /chunk samples\/id\/c\.0 of mine is broken: it announces 4294967295 bytes of text/,
  ],
  [
    "a huge chunk",
    (run: Group) => (run.nodes["samples/ce"].chunk_grid.configuration.chunk_shape = [2 ** 28]),
    /array samples\/ce of mine doesn't follow its format/,
  ],
  [
    "a huge chunk of text",
    (run: Group) => (run.nodes["samples/id"].chunk_grid.configuration.chunk_shape = [65_537]),
    /array samples\/id of mine doesn't follow its format/,
  ],
  [
    "chunks without a checksum",
    (run: Group) => run.nodes["samples/ce"].codecs.pop(),
    /array samples\/ce of mine doesn't follow its format/,
  ],
  [
    "other chunk keys",
    (run: Group) => (run.nodes["samples/ce"].chunk_key_encoding.configuration.separator = "/"),
    /array samples\/ce of mine doesn't follow its format/,
  ],
  [
    "an unknown codec",
    (run: Group) => run.nodes["samples/ce"].codecs.splice(1, 0, { name: "gzip" }),
    /chunk samples\/ce\/c\.0 of mine is broken: .*gzip/,
  ],
  [
    "big-endian numbers",
    (run: Group) => (run.nodes["samples/ce"].codecs[0].configuration.endian = "big"),
    /chunk samples\/ce\/c\.0 of mine is broken: its bytes are big-endian/,
  ],
  [
    "a chunk that is too short",
    (run: Group) => run.files.set("samples/ce/c.0", summed(new Uint8Array(8))),
    /chunk samples\/ce\/c\.0 of mine is broken: it holds 8 bytes; run `lorascope verify`/,
  ],
  [
    "a chunk of too many texts",
    (run: Group) => run.files.set("samples/id/c.0", summed(Uint8Array.of(255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0))),
    /chunk samples\/id\/c\.0 of mine is broken: it doesn't hold 2 texts/,
  ],
  [
    "texts that reach too far",
    (run: Group) => run.files.set("samples/id/c.0", summed(Uint8Array.of(2, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0, 0))),
    /is broken: its texts are cut off/,
  ],
  [
    "a file larger than its array allows",
    (run: Group) => run.files.set("samples/ce/c.0", new Uint8Array(5000)),
    /samples\/ce\/c\.0 of mine is larger than its format allows/,
  ],
  [
    "a chunk that was altered",
    (run: Group) => (run.files.get("samples/ce/c.0")![3]! ^= 1),
    /chunk samples\/ce\/c\.0 of mine is broken: its checksum is wrong; run `lorascope verify`/,
  ],
  [
    "a missing chunk",
    (run: Group) => run.files.delete("samples/ce/c.0"),
    /chunk samples\/ce\/c\.0 of mine is missing; run `lorascope verify` on it/,
  ],
  [
    "a missing chunk of the index",
    (_: Group, index: Group) => index.files.delete("adapters/a/miub/c.0"),
    /chunk adapters\/a\/miub\/c\.0 of the view index of mine is missing; run `lorascope view` again/,
  ],
] as [string, (run: Group, index: Group) => unknown, RegExp][]) {
  test(`${name} is refused`, () => refused(opened({}, change as never), message));
}

for (const [name, change, message] of [
  [
    "a missing chunk of base",
    (run: Group) => run.files.delete("states/m.0/base/c.0.0"),
    /chunk states\/m\.0\/base\/c\.0\.0 of mine is missing; run `lorascope verify`/,
  ],
  [
    "an altered chunk of base",
    (run: Group) => (run.files.get("states/m.0/base/c.0.0")![70]! ^= 1),
    /chunk states\/m\.0\/base\/c\.0\.0 of mine is broken: its checksum is wrong/,
  ],
  [
    "a chunk of base that is too short",
    (run: Group) => run.files.set("states/m.0/base/c.0.0", summed(new Uint8Array(9))),
    /states\/m\.0\/base\/c\.0\.0 of mine is broken: it holds 9 bytes/,
  ],
  [
    "an altered inner chunk",
    (run: Group) => (run.files.get("adapters/a/factor/c.0.0")![70]! ^= 1),
    /chunk adapters\/a\/factor\/c\.0\.0 of mine is broken: its checksum is wrong/,
  ],
  [
    "an altered index of a shard",
    (run: Group) => run.files.get("adapters/a/factor/c.0.0")!.subarray(-9).fill(0),
    /factor\/c\.0\.0 of mine is broken: its checksum is wrong/,
  ],
  [
    "an empty shard",
    (run: Group) => run.files.set("adapters/a/factor/c.0.0", new Uint8Array(0)),
    /factor\/c\.0\.0 of mine is broken: its checksum is wrong/,
  ],
  [
    "a shard without an inner chunk",
    (run: Group) => {
      const shard = run.files.get("adapters/a/factor/c.0.0")!;
      shard.set(summed(new Uint8Array(shard.subarray(-36, -4)).fill(255, 16)), shard.length - 36);
    },
    /factor\/c\.0\.0 of mine is broken: its shard lacks an inner chunk; run `lorascope verify`/,
  ],
  ...[[0, 2], [1024, -2], [1e-9, 2], [1000, 2], [1024, 3], [1024], "12"].map((inner) => [
    `an inner chunk of ${JSON.stringify(inner)}`,
    (run: Group) => (run.nodes["adapters/a/factor"].codecs[0].configuration.chunk_shape = inner),
    /array adapters\/a\/factor of mine doesn't follow its format/,
  ]),
  [
    "a missing shard",
    (run: Group) => run.files.delete("adapters/a/factor/c.0.0"),
    /chunk adapters\/a\/factor\/c\.0\.0 of mine is missing/,
  ],
  [
    "missing weights",
    (run: Group) => delete run.nodes["adapters/a/lora_B/m.0"],
    /mine has no array adapters\/a\/lora_B\/m\.0/,
  ],
  [
    "missing directions",
    (_: Group, index: Group) => index.files.delete("adapters/a/top_token/c.0.0.0"),
    /top_token\/c\.0\.0\.0 of the view index of mine is missing; run `lorascope view` again/,
  ],
] as [string, (run: Group, index: Group) => unknown, RegExp][]) {
  test(`${name} is reported, and other cells are shown`, async () => {
    const { data, run } = await opened({}, change as never);
    await refused(data.cell(run, 0, 0, 0), message);
    assert.equal((await data.tokens(run, 0, 0)).n, 3);
  });
}

test("a server that can't be reached, or refuses, is reported; a failed request is repeated", async () => {
  let answer = (_: string): Response | undefined => undefined;
  const { data, run } = await opened({}, () => {}, { answer: (path: string) => answer(path) });
  answer = () => {
    throw new TypeError("fetch failed");
  };
  await refused(data.tokens(run, 0, 0), /can't reach http:.*: see whether its server runs/);
  answer = () => new Response("", { status: 403, statusText: "Forbidden" });
  await refused(data.tokens(run, 0, 0), /http:.* answers 403 Forbidden/);
  answer = () => undefined;
  assert.equal((await data.tokens(run, 0, 0)).n, 3);
});

test("a server that sends more than it announces, or announces nothing, is reported", async () => {
  let sent = 0;
  const endless = () =>
    new ReadableStream({ pull: (to) => to.enqueue(new Uint8Array(65_536).fill((sent += 65_536) % 7)) });
  const answer = (path: string) => (path.endsWith("ce/c.0") ? new Response(endless()) : undefined);
  const { run, index } = makeRun();
  const { base } = serve({ "view.json": manifest("mine"), "runs/0/": run, "indexes/0/": index }, { answer });
  await refused(dataAt(base).open(0), /ce\/c\.0 of mine is larger than its format allows/);
  assert.ok(sent < 2 ** 21);
});

test("a long error page of a server is reported as an error", async () => {
  const answer = (path: string) =>
    path.endsWith("ce/c.0") ? new Response("x".repeat(99_999), { status: 503, statusText: "busy" }) : undefined;
  const { run, index } = makeRun();
  const { base } = serve({ "view.json": manifest("mine"), "runs/0/": run, "indexes/0/": index }, { answer });
  await refused(dataAt(base).open(0), /ce\/c\.0 answers 503 busy/);
});

test("an object that may be absent counts as absent where a bucket says 403", async () => {
  const answer = (path: string) => (/base_ce\/c|commit/.test(path) ? new Response("", { status: 403 }) : undefined);
  const { run } = await opened(
    { finished: false },
    (run) => Object.assign(run.nodes["samples/base_ce"], { fill_value: "NaN" }),
    { answer },
  );
  assert.deepEqual([...run.samples.baseCe, run.nCommittedRows], [NaN, NaN, 0]);
});

test("only files of reports next to the page are linked", async () => {
  const reports = { a: "report-0-a.html", b: "javascript:alert(1)", c: "report/../../x.html", d: "//x/report.html" };
  const document = { format: "lorascope.view", format_version: 1, runs: [{ name: "r", run: "r/", index: "i/", reports }] };
  const { base } = serve({ "view.json": { get: () => new TextEncoder().encode(JSON.stringify(document)) } });
  assert.deepEqual((await dataAt(base).manifest()).runs[0]!.reports, { a: "report-0-a.html" });
});

for (const [name, content, message] of [
  ["isn't there", undefined, /can't read http:.*view\.json: `lorascope view`, or any web server/],
  ["isn't JSON", "<html>", /view\.json isn't a manifest/],
  [
    "is of another version",
    '{"format": "lorascope.view", "format_version": 2, "runs": []}',
    /view\.json isn't a manifest/,
  ],
  [
    "has no such run",
    '{"format": "lorascope.view", "format_version": 1, "runs": []}',
    /view\.json has no run 0; it has 0/,
  ],
] as const) {
  test(`a view.json that ${name} is reported`, async () => {
    const { base } = serve({
      "view.json": { get: () => (content === undefined ? undefined : new TextEncoder().encode(content)) },
    });
    await refused(dataAt(base).open(0), message);
  });
}

test("a root that isn't JSON is reported", async () => {
  const html = { get: () => new TextEncoder().encode("<html>") };
  const { base } = serve({ "view.json": manifest("mine"), "runs/0/": html, "indexes/0/": makeRun().index });
  await refused(dataAt(base).open(0), /zarr\.json of mine isn't JSON; run `lorascope verify` on it/);
});

test("a run that isn't there can be opened once it is", async () => {
  const { run, index } = makeRun();
  const places: Record<string, Group> = {};
  const { base } = serve({
    "view.json": manifest("mine"),
    "runs/0/": { get: (key) => places.run?.get(key) },
    "indexes/0/": index,
  });
  const data = dataAt(base);
  await refused(data.open(0), /there is no Zarr group at http:.*runs\/0\//);
  places.run = run;
  assert.equal((await data.open(0)).nTokens, N_TOKENS);
});

test("numbers of a mixture's experts are read with the run, in whichever measures it has", async () => {
  const { run } = await opened({ experts: true });
  const { layers, n, values } = run.adapters[0]!.experts!;
  assert.deepEqual([layers, n, [...values.keys()]], [[2, 5], 3, [...EXPERT_MEASURES]]);
  EXPERT_MEASURES.forEach((name, place) => assert.deepEqual(values.get(name), expertValues(place)));
  assert.equal((await opened()).run.adapters[0]!.experts, null);
  await refused(opened({ experts: true }, (_, index) => index.array("adapters/a/experts/miub", Float64Array.of(1))),
    /array adapters\/a\/experts\/miub of the view index of mine doesn't follow its format; run `lorascope view` again/);
  await refused(opened({ experts: true }, (_, index) => index.array("adapters/a/experts/share", Float64Array.of(1))),
    /array adapters\/a\/experts\/share of the view index of mine doesn't follow its format/);
});

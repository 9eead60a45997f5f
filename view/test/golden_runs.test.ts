import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { dataAt } from "../src/data/index";
import { jensenShannon } from "../src/numbers/divergence";
import { folder, Group, manifest, serve } from "./served";

interface Expected {
  base: Record<string, number[][]>;
  delta: Record<string, number[][]>;
  tables: { samples: Record<string, unknown[]> };
  static_digest: string;
}
const PATHS = ["layers.0.fc", "layers.1.fc"];

function indexOf(version: string, { static_digest }: Expected): Group {
  const { fingerprint } = JSON.parse(readFileSync(`../tests/stores/golden/${version}.zarr/zarr.json`, "utf8")).attributes;
  return new Group({ format: "lorascope.view", format_version: 1, static_digest, fingerprint })
    .group("adapters/default", { scale: { js: 0.5, token: 0.6 } })
    .array("permutation/3", Int32Array.of(2, 0, 1))
    .array("permutation/4", Int32Array.of(1, 3, 2, 0))
    .array("adapters/default/js", Float32Array.of(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), [4, 2], [256, 2])
    .array("adapters/default/miub", Float64Array.of(0.25, NaN))
    .array("adapters/default/rotation", Float32Array.of(-1, NaN, NaN, NaN, NaN, NaN, NaN, NaN), [2, 2, 2], [1, 2, 2])
    .array("adapters/default/share", Float32Array.of(1, NaN, NaN, NaN), [2, 2])
    .array(
      "adapters/default/top_token",
      BigInt64Array.of(3n, 0n, -1n, -1n, -1n, -1n, -1n, -1n, -1n, -1n, -1n, -1n),
      [2, 2, 3],
      [1, 2, 3],
    )
    .array("adapters/default/top_score", new Float32Array(12).fill(0.5), [2, 2, 3], [1, 2, 3]);
}

for (const version of ["v1", "v2", "v3"]) {
  for (const ranges of [true, false]) {
    test(`the golden run ${version} is read whole${ranges ? "" : ", from a server without ranges"}`, async () => {
      const expected: Expected = JSON.parse(readFileSync(`../tests/stores/golden/${version}.json`, "utf8"));
      const { base: page } = serve(
        {
          "view.json": manifest("golden"),
          "runs/0/": folder(`../tests/stores/golden/${version}.zarr`),
          "indexes/0/": indexOf(version, expected),
        },
        { ranges },
      );
      const data = dataAt(page);
      const run = await data.open(0);
      assert.equal(run.nTokens, 4);
      assert.equal(run.stream, "adapted");
      assert.deepEqual(
        run.components.map(({ path, kind, layer, dIn, dOut }) => [path, kind, layer, dIn, dOut]),
        [
          ["layers.0.fc", "fc", 0, 2, 3],
          ["layers.1.fc", "fc", 1, 2, 4],
        ],
      );
      const { samples: table } = expected.tables;
      for (const name of ["id", "dataset", "split", "prompt", "length", "ce", "correct"] as const)
        assert.deepEqual([...run.samples[name]], table[name]);
      assert.deepEqual([[...run.samples.start], [...run.samples.stop]], [table.token_start, table.token_stop]);
      assert.deepEqual([...run.samples.baseCorrect, ...run.samples.baseCe], [-1, -1, NaN, NaN]);
      assert.deepEqual(
        run.adapters.map(({ name, rank, miub, scale }) => [name, [...rank], [...miub], scale]),
        [["default", [1, 2], [0.25, NaN], { js: 0.5, token: 0.6 }]],
      );

      const second = await data.tokens(run, 0, 1);
      assert.deepEqual(
        [second.start, second.n, [...second.position], [...second.role], second.text],
        [2, 2, [0, 1], [4, 4], ["É", "t"]],
      );
      assert.deepEqual([...second.nll], [NaN, 2]);
      assert.deepEqual([...second.js], [...Float32Array.of(0.5, 0.6, 0.7, 0.8)]);

      for (const [component, path] of PATHS.entries()) {
        for (let token = 0; token < 4; token++) {
          const base = Float32Array.from(expected.base[path]![token]!),
            delta = Float32Array.from(expected.delta[path]![token]!);
          const cell = await data.cell(run, 0, token, component);
          assert.equal(cell.without, null);
          assert.ok(Math.abs(cell.js - jensenShannon(base, delta)) <= 1e-6 * cell.js);
          const order = [...delta.keys()].sort((a, b) => Math.abs(delta[b]!) - Math.abs(delta[a]!));
          assert.deepEqual(
            cell.features.map(({ feature, base }) => [feature, base]),
            order.map((feature) => [feature, base[feature]]),
          );
          cell.features.forEach(({ feature, delta: found }) =>
            assert.ok(Math.abs(found - delta[feature]!) <= 1e-6 * Math.abs(found)),
          );
          if (component === 1) assert.match(cell.withoutDirections!, /not kept as a factor/);
          else
            assert.deepEqual(
              [cell.directions!.length, cell.directions![0]!.top],
              [
                1,
                [
                  { token: 3, score: 0.5 },
                  { token: 0, score: 0.5 },
                ],
              ],
            );
        }
      }
      assert.deepEqual(await data.contexts(run, [1, 2]), [
        { token: 1, sample: 0, before: " n", text: "o", after: "" },
        { token: 2, sample: 1, before: "", text: "É", after: "t" },
      ]);
      const search = (words: string) => data.search(run, words, () => {}, new AbortController().signal);
      assert.deepEqual(
        [await search("NO"), await search("é"), await search("x"), await search("")],
        [new Set([0]), new Set([1]), new Set(), new Set([0, 1])],
      );
    });
  }
}

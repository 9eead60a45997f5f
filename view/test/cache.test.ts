import assert from "node:assert/strict";
import { test } from "node:test";
import { Cache } from "../src/data/cache";

test("a cache shares what is being read, and forgets what was used least recently", async () => {
  const cache = new Cache(10);
  const loads: string[] = [];
  const get = (key: string, bytes = 4) =>
    cache.get(
      key,
      async () => (loads.push(key), bytes),
      (value) => value,
    );
  await Promise.all([get("a"), get("a"), get("b")]);
  await get("a");
  await get("c"); // forgets b
  await get("a");
  await get("b"); // forgets c
  assert.deepEqual(loads, ["a", "b", "c", "b"]);
});

test("what failed is loaded again", async () => {
  const cache = new Cache(10);
  await assert.rejects(
    cache.get(
      "a",
      async () => Promise.reject(new Error("no")),
      () => 1,
    ),
    /no/,
  );
  assert.equal(
    await cache.get(
      "a",
      async () => 2,
      () => 1,
    ),
    2,
  );
});

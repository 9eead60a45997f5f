import assert from "node:assert/strict";
import { test } from "node:test";
import { deltaOf, scoresOf } from "../src/numbers/delta";
import { effectiveWidth, jensenShannon, norm } from "../src/numbers/divergence";
import { widenBfloat16, widenFloat16 } from "../src/numbers/floats";
import golden from "./golden.json";

type Packed = { dtype: string; shape: number[]; base64: string };
type Values = Float32Array | Float64Array | Int32Array | Uint16Array;
type Case = { inputs: Record<string, Packed>; answers: Record<string, Packed> };

const TYPES = { float32: Float32Array, float64: Float64Array, int32: Int32Array, uint16: Uint16Array };

function unpacked<T extends Values>({ dtype, base64 }: Packed): T {
  const bytes = Uint8Array.from(Buffer.from(base64, "base64"));
  return new TYPES[dtype as keyof typeof TYPES](bytes.buffer) as T;
}

function rowsOf<T extends Values>(packed: Packed): T[] {
  const values = unpacked<T>(packed);
  const width = packed.shape[1]!;
  return Array.from({ length: packed.shape[0]! }, (_, i) => values.subarray(i * width, (i + 1) * width) as T);
}

function close(found: number, expected: number, relative: number, where: string, absolute = 0): void {
  if (Object.is(found, expected) || found === expected) return; // both NaN, or both infinite
  const off = Math.abs(found - expected);
  assert.ok(off <= relative * Math.abs(expected) + absolute, `${where}: ${found} instead of ${expected}`);
}

function cases(kind: "bfloat16" | "delta" | "js" | "scores"): [string, Case][] {
  return Object.entries(golden[kind] as Record<string, Case>);
}

for (const [name, { inputs, answers }] of cases("bfloat16")) {
  test(`bfloat16: ${name}`, () => {
    const found = widenBfloat16(unpacked(inputs.bits!));
    assert.deepEqual(new Uint32Array(found.buffer), new Uint32Array(unpacked<Float32Array>(answers.values!).buffer));
  });
}

for (const [name, { inputs, answers }] of cases("delta")) {
  test(`delta: ${name}`, () => {
    const B = unpacked<Float32Array>(inputs.lora_B!);
    const bias = inputs.bias && unpacked<Float32Array>(inputs.bias);
    const scaling = unpacked<Float32Array>(inputs.scaling!)[0]!;
    const expected = rowsOf<Float32Array>(answers.delta!);
    rowsOf<Float32Array>(inputs.z!).forEach((z, token) => {
      const found = deltaOf(z, B, scaling, bias);
      assert.equal(found.length, expected[token]!.length);
      found.forEach((value, i) => {
        let size = Math.abs(bias?.[i] ?? 0);
        for (let k = 0; k < z.length; k++) size += Math.abs(z[k]! * B[i * z.length + k]!);
        close(value, expected[token]![i]!, 0, `token ${token}, feature ${i}`, 1e-6 * Math.abs(scaling) * size);
      });
    });
  });
}

for (const [name, { inputs, answers }] of cases("js")) {
  test(`js: ${name}`, () => {
    const deltas = rowsOf<Float32Array>(inputs.delta!);
    const order = unpacked<Int32Array>(inputs.permutation!);
    rowsOf<Float32Array>(inputs.base!).forEach((base, token) => {
      const delta = deltas[token]!;
      const [baseNorm, deltaNorm] = [norm(base), norm(delta)];
      const js = jensenShannon(base, delta);
      const found = {
        js,
        js_permuted: jensenShannon(
          base,
          Float32Array.from(order, (i) => delta[i]!),
        ),
        effective_width: effectiveWidth(base),
        base_norm: baseNorm,
        delta_norm: deltaNorm,
        delta_ratio: deltaNorm / baseNorm,
      };
      for (const [key, value] of Object.entries(found)) {
        close(value, unpacked<Float32Array>(answers[key]!)[token]!, 1e-6, `${key} of token ${token}`, 1e-37);
      }
      close(js, unpacked<Float64Array>(answers.js_float64!)[token]!, 1e-12, `float64 js of token ${token}`);
    });
  });
}

for (const [name, { inputs, answers }] of cases("scores")) {
  test(`scores: ${name}`, () => {
    const rotation = unpacked<Float32Array>(inputs.rotation!);
    const rank = inputs.rotation!.shape[1]!;
    const expected = rowsOf<Float64Array>(answers.scores!);
    rowsOf<Float32Array>(inputs.z!).forEach((z, token) => {
      scoresOf(z, rotation, rank).forEach((score, i) => close(score, expected[token]![i]!, 1e-13, `score ${i}`, 1e-15));
    });
  });
}

test("js is symmetric, bounded by ln 2 and blind to a constant", () => {
  const base = Float32Array.from({ length: 100 }, (_, i) => Math.sin(i * 7));
  const delta = Float32Array.from({ length: 100 }, (_, i) => 30 * Math.cos(i * 3));
  const js = jensenShannon(base, delta);
  assert.ok(js > 0 && js < Math.LN2);
  const other = base.map((x, i) => x + delta[i]!);
  close(
    jensenShannon(
      other,
      base.map((x, i) => x - other[i]!),
    ),
    js,
    1e-5,
    "swapped",
  );
  close(
    jensenShannon(
      base,
      delta.map((x) => x + 2),
    ),
    js,
    1e-5,
    "shifted",
  );
});

test("float16 holds zeros, subnormals, numbers, infinities and NaN", () => {
  const bits = Uint16Array.of(0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x3c00, 0xc100, 0x7bff, 0x7c00, 0xfc00, 0x7e00);
  const expected = [0, -0, 2 ** -24, -1023 * 2 ** -24, 2 ** -14, 1, -2.5, 65504, Infinity, -Infinity, NaN];
  assert.deepEqual([...widenFloat16(bits)], expected);
});

/** Delta of one token, and its coordinates along directions. */

/** scaling * (B z + bias), float32 by feature; `B` is (feature, rank), row by row, and sums are taken in float64. */
export function deltaOf(z: Float32Array, B: Float32Array, scaling: number, bias?: Float32Array): Float32Array {
  const factor = Math.fround(scaling);
  return Float32Array.from({ length: B.length / z.length }, (_, feature) => {
    const product = Math.fround(dot(B, feature * z.length, z));
    return factor * (bias ? Math.fround(product + bias[feature]!) : product);
  });
}

/** rotation z by direction, for the first `z.length` of `stride` entries of each of its rows. */
export function scoresOf(z: Float32Array, rotation: Float32Array, stride = z.length): Float64Array {
  const n = rotation.length / stride;
  return Float64Array.from({ length: n }, (_, direction) => dot(rotation, direction * stride, z));
}

function dot(rows: Float32Array, start: number, z: Float32Array): number {
  let sum = 0;
  for (let i = 0; i < z.length; i++) sum += rows[start + i]! * z[i]!;
  return sum;
}

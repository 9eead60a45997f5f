/** Measures of one token's base and delta, in float64; docs/js-kernel.md derives the formulas. */

/** Jensen-Shannon divergence of softmax(base) and softmax(base + delta), nats; NaN where a value isn't finite. */
export function jensenShannon(base: Float32Array, delta: Float32Array): number {
  const n = base.length;
  // Halves of base + delta, each in two parts that are exact together: a sum of two float32 may overflow and rounds.
  const high = new Float64Array(n), low = new Float64Array(n);
  let top = -Infinity, shift = 0, first = 0, topHigh = -Infinity, topLow = 0;
  for (let i = 0; i < n; i++) {
    const x = 0.5 * base[i]!, d = 0.5 * delta[i]!, sum = x + d, back = sum - d;
    if (!Number.isFinite(sum)) return NaN;
    high[i] = sum;
    low[i] = x - back + (d - (sum - back));
    if (base[i]! > top) [top, shift, first] = [base[i]!, delta[i]!, i];
    if (sum > topHigh || (sum === topHigh && low[i]! > topLow)) [topHigh, topLow] = [sum, low[i]!];
  }
  const above = (i: number, h: number, l: number) => 2 * (high[i]! - h + (low[i]! - l));
  const p = new Float64Array(n), q = new Float64Array(n);
  let sumP = 0, sumQ = 0, change = 0;
  for (let i = 0; i < n; i++) {
    const a = delta[i]! - shift;
    sumP += p[i] = Math.exp(base[i]! - top);
    sumQ += q[i] = Math.exp(above(i, topHigh, topLow));
    change += a < 1 ? p[i]! * Math.expm1(a) : Math.exp(above(i, high[first]!, low[first]!)) - p[i]!;
  }
  // Where the second normaliser is near exp(shift) times the first, log q - log p comes from delta alone.
  const isNear = Math.abs(change) < 0.5 * sumP;
  const logRatio = isNear ? Math.log1p(change / sumP) : Math.log(sumQ / sumP);
  let total = 0;
  for (let i = 0; i < n; i++) {
    const weight = p[i]! / sumP + q[i]! / sumQ;
    if (weight > 0) {
      const d = isNear ? delta[i]! - shift : above(i, topHigh, topLow) - (base[i]! - top);
      total += weight * excess(d - logRatio);
    }
  }
  return 0.5 * total;
}

/** (d/2) tanh(d/2) - log cosh(d/2). */
function excess(d: number): number {
  const a = Math.abs(d);
  if (a < 2) {
    const h = Math.tanh(a / 2);
    return (a / 2) * h + 0.5 * Math.log1p(-h * h);
  }
  if (a > 800) return Math.LN2;
  const t = Math.exp(-a);
  return Math.LN2 - Math.log1p(t) - (a * t) / (1 + t);
}

/** exp of the entropy of softmax(base): how many features share its mass; NaN where a value isn't finite. */
export function effectiveWidth(base: Float32Array): number {
  if (!base.every(Number.isFinite)) return NaN;
  const top = base.reduce((a, b) => Math.max(a, b));
  let sum = 0, weighted = 0;
  for (const x of base) {
    const weight = Math.exp(x - top);
    sum += weight;
    if (weight > 0) weighted += weight * (x - top);
  }
  return Math.exp(Math.log(sum) - weighted / sum);
}

/** Euclidean norm; NaN where a value isn't finite. */
export function norm(values: Float32Array): number {
  let sum = 0;
  for (const value of values) sum += value * value;
  return Number.isFinite(sum) ? Math.sqrt(sum) : NaN;
}

/** Colours of js, ticks, and numbers as text. */

const STEPS = 256;
/** Colours from the smallest to the largest value: even steps of OKLCH's lightness, within one hue. */
const STOPS = {
  light: "fff9f1 ffe3cb ffcda3 fcb67a f99e4c eb8a3c de762b d06217 c14e00 aa4300 943804 7e2e06 682408",
  dark: "1e1815 372219 512b1c 6c351e 883e1f 9f4c21 b85b23 d16a24 ea7a25 f2964f f8b171 fdcc91 ffe6b0",
} as const;
export const PALETTE = {
  light: { page: "#ffffff", ink: "#1f2328", quiet: "#5b636c", line: "#d9dde2", missing: "#e3e3e3" },
  dark: { page: "#121212", ink: "#e4e4e4", quiet: "#a3abb3", line: "#3a3e44", missing: "#303030" },
} as const;

export interface Ramp {
  /** Colours from the smallest to the largest value. */
  fill: string[];
  /** Colour of text on each, contrast at least 4.5. */
  ink: string[];
}

const channels = (color: string) => [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));

/** Relative luminance of `#rrggbb`, WCAG 2.2. */
export function luminance(color: string): number {
  const [r, g, b] = channels(color).map((value) =>
    value <= 10 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4) as [number, number, number];
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function contrast(one: string, other: string): number {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

export function ramp(theme: "light" | "dark"): Ramp {
  const stops = STOPS[theme].split(" ").map((color) => channels(`#${color}`));
  const fill = Array.from({ length: STEPS }, (_, step) => {
    const at = (step / (STEPS - 1)) * (stops.length - 1);
    const [one, next] = [stops[Math.floor(at)]!, stops[Math.ceil(at)]!];
    const mixed = one.map((each, i) => Math.round(each + (at % 1) * (next[i]! - each)));
    return `#${mixed.map((each) => each.toString(16).padStart(2, "0")).join("")}`;
  });
  const ink = fill.map((color) =>
    contrast(color, PALETTE[theme].ink) >= 4.5 ? PALETTE[theme].ink
      : contrast(color, "#000000") > contrast(color, "#ffffff") ? "#000000" : "#ffffff");
  return { fill, ink };
}

/** Place of a value on the scale, from 0 to 1: the square root of its share of `top`. */
export const share = (value: number, top: number) => Math.sqrt(Math.min(1, Math.max(0, top > 0 ? value / top : 0)));

/** Step of the ramp for a value; -1 for NaN. */
export const step = (value: number, top: number) =>
  Number.isNaN(value) ? -1 : Math.round(share(value, top) * (STEPS - 1));

/** Js in nats of the strongest colour for a sum over `n` of `all` components, between that for one and that for all. */
export function topOf(scale: { js: number; token: number }, n: number, all: number): number {
  if (n <= 1 || all <= 1 || !scale.js) return scale.js;
  return scale.js * (scale.token / scale.js) ** (Math.log(Math.min(n, all)) / Math.log(all));
}

/** Zero, `top` and round values between, at least three tenths of the scale apart. */
export function ticks(top: number): number[] {
  if (!top) return [0];
  const found = [top];
  for (let power = Math.floor(Math.log10(top)); power > -12 && top > 0; power--) {
    for (const round of [5, 2, 1]) {
      const value = Number(`${round}e${power}`);
      if (share(value, top) < share(found[0]!, top) - 0.3 && share(value, top) > 0.25) found.unshift(value);
    }
  }
  return [0, ...found];
}

const SUPERS = "⁰¹²³⁴⁵⁶⁷⁸⁹";

/** A number with three digits, as a power of ten if it is very large or small; a dash for NaN. */
export function num(value: number, digits = 3): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "–" : String(value).replace("-", "−");
  const size = Math.abs(value);
  if (size === 0 || (size >= 1e-3 && size < 1e4)) {
    return (size >= 100 ? value.toFixed(0) : String(value ? value.toPrecision(digits) : 0)).replace("-", "−");
  }
  const [mantissa, power] = value.toExponential(digits - 1).split("e") as [string, string];
  const raised = [...power.replace("+", "")].map((each) => (each === "-" ? "⁻" : SUPERS[Number(each)])).join("");
  return `${mantissa.replace("-", "−")}·10${raised}`;
}

/** A number with its sign, also if it is positive. */
export const signed = (value: number) => (value > 0 ? `+${num(value)}` : num(value));

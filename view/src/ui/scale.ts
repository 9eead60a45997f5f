/** Colours of js, ticks, and numbers as text. */

const STEPS = 256;
/** Lightness, chroma and hue (OKLCH) from nothing to the most; lightness changes evenly. */
const STOPS = {
  light: [[0.985, 0.012, 75], [0.777, 0.145, 60], [0.568, 0.165, 45], [0.36, 0.105, 40]],
  dark: [[0.215, 0.012, 50], [0.455, 0.11, 42], [0.695, 0.165, 52], [0.935, 0.075, 85]],
} as const;
export const PALETTE = {
  light: { page: "#ffffff", ink: "#1f2328", quiet: "#5b636c", line: "#d9dde2", missing: "#e3e3e3" },
  dark: { page: "#121212", ink: "#e4e4e4", quiet: "#a3abb3", line: "#3a3e44", missing: "#303030" },
} as const;

export interface Ramp {
  /** From nothing to the most. */
  fill: string[];
  /** Colour of text on each, contrast at least 4.5. */
  ink: string[];
}

type Rgb = [number, number, number];

function srgb([l, a, b]: Rgb): Rgb {
  const [x, y, z] = [l + 0.3963377774 * a + 0.2158037573 * b, l - 0.1055613458 * a - 0.0638541728 * b,
    l - 0.0894841775 * a - 1.291485548 * b].map((each) => each ** 3) as Rgb;
  const linear: Rgb = [4.0767416621 * x - 3.3077115913 * y + 0.2309699292 * z,
    -1.2684380046 * x + 2.6097574011 * y - 0.3413193965 * z, -0.0041960863 * x - 0.7034186147 * y + 1.707614701 * z];
  return linear.map((each) => {
    const inside = Math.min(1, Math.max(0, each));
    return Math.round(255 * (inside <= 0.0031308 ? 12.92 * inside : 1.055 * inside ** (1 / 2.4) - 0.055));
  }) as Rgb;
}

const hex = (rgb: Rgb) => `#${rgb.map((each) => each.toString(16).padStart(2, "0")).join("")}`;

/** Relative luminance of `#rrggbb`, WCAG 2.2. */
export function luminance(color: string): number {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const value = parseInt(color.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  }) as Rgb;
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

export function contrast(one: string, other: string): number {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b) as [number, number];
  return (light + 0.05) / (dark + 0.05);
}

export function ramp(theme: "light" | "dark"): Ramp {
  const stops = STOPS[theme].map(([l, c, h]) =>
    [l, c * Math.cos((h * Math.PI) / 180), c * Math.sin((h * Math.PI) / 180)] as Rgb);
  const fill = Array.from({ length: STEPS }, (_, step) => {
    const at = (step / (STEPS - 1)) * (stops.length - 1);
    const below = Math.min(stops.length - 2, Math.floor(at));
    return hex(srgb(stops[below]!.map((each, i) => each + (at - below) * (stops[below + 1]![i]! - each)) as Rgb));
  });
  const ink = fill.map((color) =>
    contrast(color, PALETTE[theme].ink) >= 4.5 ? PALETTE[theme].ink
      : contrast(color, "#000000") > contrast(color, "#ffffff") ? "#000000" : "#ffffff");
  return { fill, ink };
}

/** Where a value stands on the scale, from 0 to 1: the square root of its share of `top`. */
export const share = (value: number, top: number) => Math.sqrt(Math.min(1, Math.max(0, top > 0 ? value / top : 0)));

/** Step of the ramp for a value; -1 where there is none. */
export const step = (value: number, top: number) =>
  Number.isNaN(value) ? -1 : Math.round(share(value, top) * (STEPS - 1));

/** Nats of the strongest colour for a sum over `n` of `all` components: a power of n between those for one and for all. */
export function topOf(scale: { js: number; token: number }, n: number, all: number): number {
  if (n <= 1 || all <= 1) return scale.js;
  return scale.js * (scale.token / scale.js) ** (Math.log(Math.min(n, all)) / Math.log(all));
}

/** Nought, the top and round values between, at least three tenths of the scale apart. */
export function ticks(top: number): number[] {
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

/** Three digits, with a power of ten where it is short so; a dash where there is no number. */
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

/** With its sign always. */
export const signed = (value: number) => (value > 0 ? `+${num(value)}` : num(value));

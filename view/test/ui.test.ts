/** The parts of the page that need no browser. */

import assert from "node:assert/strict";
import { test } from "node:test";
import type { Component, Experts, Measure, Run, Samples, Tokens } from "../src/data/types";
import { placeOf, textOf } from "../src/ui/app";
import { oneLine } from "../src/ui/dom";
import { expertText } from "../src/ui/experts";
import { columnAt, columns, inSight, rowHeight, scrollTo } from "../src/ui/layout";
import { ceChange, isWhole, listed, outcome, twin } from "../src/ui/order";
import { parting } from "../src/ui/replies";
import { contrast, num, PALETTE, ramp, share, signed, step, ticks, topOf } from "../src/ui/scale";
import { byComponent, chosen, counts, fits, grid, patternOf, strongestOf, sums } from "../src/ui/select";
import { format, MOST_PANES, parse, type View } from "../src/ui/state";

const USUAL = parse("");

test("a view survives its address", () => {
  const view: View = {
    panes: [
      { run: 0, adapter: "default" },
      { run: 2, adapter: "" },
    ],
    sample: 41,
    token: 7,
    offset: 3,
    layer: 0,
    component: "model.layers.3.self_attn.q_proj",
    direction: 2,
    filter: "*.q_proj, *.[ov]_proj",
    sort: "-miub",
    show: "became-right",
    search: "a=b&c #% é \u202e <b>\n",
    theme: "dark",
  };
  assert.deepEqual(parse(format(view)), view);
  assert.match(
    format(view),
    /^#panes=0:default,2&sample=41&token=7&offset=3&layer=0&component=model\.layers\.3\.self_attn\.q_proj&/,
  );
  assert.equal(format(USUAL), "#");
  assert.equal(parse("#layer=-1").layer, -1);
  assert.equal(parse(format({ ...USUAL, search: "\ud800" })).search, "\ufffd");
});

for (const hash of [
  "#sample=-1&token=1e9&layer=0x10&direction=99999999999999999999",
  "#sample=NaN&token=%E0%A4%A&panes=,,:,a:b,-1,1:../x,0:a%00b",
  "#sort=__proto__&show=constructor&theme=blue",
  "#__proto__=1&constructor=2&=3&&&",
  `#panes=${"x".repeat(99_999)}`,
  "#sample",
  "####",
]) {
  test(`what can't be understood is ignored: ${hash.slice(0, 60)}`, () => assert.deepEqual(parse(hash), USUAL));
}

test("an address can't ask for more panes than there may be", () => {
  assert.equal(parse(`#panes=${"0,".repeat(500)}0`).panes.length, MOST_PANES);
});

for (const [name, pattern, expected] of [
  ["model.layers.3.q_proj", "*.q_proj", true],
  ["model.layers.3.q_proj", "*.3.*", true],
  ["model.layers.13.q_proj", "*.3.*", false],
  ["q_proj", "*.q_proj", false],
  ["q_proj", "?_proj", true],
  ["q_proj", "[qk]_proj", true],
  ["v_proj", "[!qk]_proj", true],
  ["q_proj", "[!qk]_proj", false],
  ["layers.7", "layers.[0-5]", false],
  ["layers.4", "layers.[0-5]", true],
  ["a", "[a", false],
  ["[a", "[a", true],
  ["a.b", "a?b", true],
  ["axb", "a.b", false],
  ["", "*", true],
  ["Q", "q", false],
  ["a]", "a[]]", true],
] as const) {
  test(`${name} ${expected ? "fits" : "doesn't fit"} ${pattern}`, () => assert.equal(fits(name, pattern), expected));
}

test("a hostile pattern takes no time", () => {
  const before = performance.now();
  assert.equal(fits("a".repeat(255), `${"*a".repeat(200)}b`), false);
  assert.ok(performance.now() - before < 1000);
});

const component = (layer: number, kind: string): Component => ({
  path: `model.layers.${layer}.mlp.${kind}`,
  kind,
  layer,
  dIn: 8,
  dOut: 8,
});
const COMPONENTS = [component(1, "up"), component(1, "down"), component(13, "up"), component(13, "gate")];

test("components by layer and kind, and what chooses them", () => {
  const found = grid(COMPONENTS);
  assert.deepEqual(
    [found.layers, found.kinds, [...found.cell]],
    [
      [1, 13],
      ["up", "down", "gate"],
      [0, 1, 3, 5],
    ],
  );
  assert.deepEqual(found.members, [[0], [1], [], [2], [], [3]]);
  assert.deepEqual(counts(COMPONENTS, ""), { all: 4, n: 4, inLayer: 2 });
  assert.deepEqual(counts(COMPONENTS, "*.up"), { all: 4, n: 2, inLayer: 1 });
  assert.equal(patternOf(COMPONENTS, { layer: 1 }), "*.1.*");
  assert.equal(patternOf(COMPONENTS, { kind: "up" }), "*.up");
  const odd = [component(1, "up"), { ...component(2, "1"), path: "m.2.1.x" }];
  assert.equal(patternOf(odd, { layer: 1 }), odd[0]!.path);
  for (const [filter, expected] of [
    ["", [1, 1, 1, 1]],
    ["*.up", [1, 0, 1, 0]],
    ["*.gate, model.layers.1.mlp.down", [0, 1, 0, 1]],
    ["none", [0, 0, 0, 0]],
  ] as const) {
    assert.deepEqual([...chosen(COMPONENTS, filter)], expected);
  }
});

test("sums leave out what isn't there, and are NaN where nothing is", () => {
  const js = Float32Array.of(1, 2, 4, NaN, NaN, NaN, NaN, NaN);
  const all = sums(js, 2, grid(COMPONENTS), chosen(COMPONENTS, ""));
  assert.deepEqual(
    [[...all.byToken], [...all.byLayer]],
    [
      [7, NaN],
      [3, 4, NaN, NaN],
    ],
  );
  const some = sums(js, 2, grid(COMPONENTS), chosen(COMPONENTS, "*.up"));
  assert.deepEqual(
    [[...some.byToken], [...some.byLayer]],
    [
      [5, NaN],
      [1, 4, NaN, NaN],
    ],
  );
  assert.deepEqual([...byComponent(Float32Array.of(1, NaN, 3, NaN), 2, 2, -1)], [2, NaN]);
  assert.deepEqual([...byComponent(Float32Array.of(1, NaN, 3, NaN), 2, 2, 1)], [3, NaN]);
});

for (const theme of ["light", "dark"] as const) {
  test(`colours go steadily away from the page and carry text, ${theme}`, () => {
    const { fill, ink } = ramp(theme);
    const ofPage = fill.map((color) => contrast(color, PALETTE[theme].page));
    for (let i = 1; i < fill.length; i++) assert.ok(ofPage[i]! >= ofPage[i - 1]! - 0.02, `step ${i}`);
    assert.ok(ofPage[0]! < 1.25 && ofPage.at(-1)! > 9);
    for (const [i, color] of fill.entries()) assert.ok(contrast(color, ink[i]!) >= 4.5, `${color} under ${ink[i]}`);
  });
}

test("the scale is that of the square root, and says so by its ticks", () => {
  assert.deepEqual(
    [share(0, 4), share(1, 4), share(4, 4), share(9, 4), share(1, 0), share(-1, 4)],
    [0, 0.5, 1, 1, 0, 0],
  );
  assert.deepEqual([step(NaN, 1), step(0, 1), step(1, 1)], [-1, 0, 255]);
  assert.deepEqual(ticks(0.012), [0, 0.001, 0.005, 0.012]);
  assert.deepEqual([ticks(0), topOf({ js: 0, token: 0 }, 3, 7)], [[0], 0]);
  for (const top of [1e-5, 3.3e-4, 0.5, 1, 7.7]) {
    const places = ticks(top).map((value) => share(value, top));
    for (let i = 1; i < places.length; i++) assert.ok(places[i]! - places[i - 1]! >= 0.25, `${top}`);
  }
});

test("the strongest colour lies between those for one component and for all", () => {
  const scale = { js: 1e-4, token: 1e-2 };
  assert.deepEqual(
    [topOf(scale, 0, 100), topOf(scale, 1, 100), topOf(scale, 100, 100)].map((each) => num(each)),
    ["1.00·10⁻⁴", "1.00·10⁻⁴", "0.0100"],
  );
  assert.ok(Math.abs(topOf(scale, 10, 100) - 1e-3) < 1e-12);
});

test("numbers as text", () => {
  assert.deepEqual(
    [0, 0.00123, 1234.5, 12345, -0.5, 1.2e-7, NaN, -Infinity].map((each) => num(each)),
    ["0", "0.00123", "1235", "1.23·10⁴", "−0.500", "1.20·10⁻⁷", "–", "−Infinity"],
  );
  assert.deepEqual([signed(0.5), signed(-0.5), signed(0)], ["+0.500", "−0.500", "0"]);
});

test("text that would turn or hide its neighbours is made visible", () => {
  assert.equal(oneLine("a\u202eb\0c\nd\te\u200b"), "a⟨202E⟩b␀c↵d⇥e⟨200B⟩");
});

for (const [text, other, expected] of [
  ["It is 3, arr!", "It is 3.", ["It is ", "3,", " arr!"]],
  ["It is 3.", "It is 3, arr!", ["It is ", "3.", ""]],
  ["Yes. No. No.", "Yes.", ["Yes. ", "No.", " No."]],
  ["Yes.", "Yes. No.", ["Yes.", "∎", ""]],
  ["Yes.", "Yes, no.", ["", "Yes.", ""]],
  ["", "Yes.", ["", "∎", ""]],
  ["same", "same", ["same", "", ""]],
  ["a  b", "a  c", ["a  ", "b", ""]],
] as const) {
  test(`“${text}” parts from “${other}”`, () => assert.deepEqual(parting(text, other), expected));
}

test("columns of the ribbon", () => {
  assert.deepEqual(
    [columns(1000, 5, 30).width, columns(1000, 50, 30).width, columns(1000, 5000, 30).width, columns(300, 0, 30).width],
    [26, 19, 14, 26],
  );
  assert.deepEqual([columns(366, 44, 30).width, columns(366, 48, 30).width, columns(366, 49, 30).width], [7, 7, 14]); // a phone
  const across = { gutter: 30, width: 10, n: 100 };
  assert.deepEqual(
    [inSight(across, 0, 130), inSight(across, 15, 130), inSight(across, 990, 130)],
    [
      [0, 10],
      [1, 12],
      [99, 100],
    ],
  );
  assert.deepEqual(
    [columnAt(across, 29, 0), columnAt(across, 30, 0), columnAt(across, 45, 20), columnAt(across, 45, 990)],
    [-1, 0, 3, -1],
  );
  assert.deepEqual(
    [scrollTo(across, 0, 50, 130), scrollTo(across, 7, 0, 130), scrollTo(across, 20, 0, 130)],
    [0, 0, 110],
  );
  assert.deepEqual(
    [rowHeight(270, 30, 4, 14), rowHeight(270, 2, 4, 14), rowHeight(270, 126, 4, 14), rowHeight(270, 0, 4, 14)],
    [9, 14, 4, 14],
  );
});

test("a position among those captured", () => {
  const positions = Int32Array.of(0, 1, 5, 9);
  assert.deepEqual(
    [0, 5, 9, 4, 10, -1].map((each) => placeOf(positions, each)),
    [0, 2, 3, -1, -1, -1],
  );
  assert.equal(placeOf(new Int32Array(), 0), -1);
});

function run(change: Partial<Samples> = {}): Run {
  const text = ["", "", "", ""];
  const samples: Samples = {
    n: 4,
    id: ["a-1", "b-2", "a-3", "c-4"],
    dataset: text,
    split: text,
    prompt: text,
    length: Int32Array.of(600, 600, 600, 600),
    start: Float64Array.of(0, 600, 1200, 1800),
    stop: Float64Array.of(600, 1200, 1800, 2400),
    ce: Float64Array.of(1, 2, NaN, 4),
    baseCe: Float64Array.of(4, 1, 1, 4),
    correct: Int8Array.of(1, 0, 1, -1),
    baseCorrect: Int8Array.of(0, 1, -1, 1),
    ...change,
  };
  return { samples, committed: (token: number) => token < 1024 || token >= 2048 } as Run;
}
const MIUB = Float64Array.of(3, NaN, 1, 2);

for (const [change, expected] of [
  [{}, [0, 1, 2, 3]],
  [{ sort: "miub" }, [2, 3, 0, 1]],
  [{ sort: "-miub" }, [0, 3, 2, 1]],
  [{ sort: "ce" }, [0, 3, 1, 2]],
  [{ sort: "-ce" }, [1, 3, 0, 2]],
  [{ sort: "outcome" }, [1, 0, 2, 3]],
  [{ show: "right" }, [0, 2]],
  [{ show: "became-right" }, [0]],
  [{ show: "wrong" }, [1]],
  [{ search: " A-" }, [0, 2, 3]],
  [{ search: "zzz" }, [3]],
] as [Partial<View>, number[]][]) {
  test(`samples listed by ${JSON.stringify(change)}`, () =>
    assert.deepEqual(listed(run(), MIUB, { ...USUAL, ...change }, new Set([3])), expected));
}

test("what is known of a sample", () => {
  const { samples } = run();
  assert.deepEqual(
    [0, 1, 2, 3].map((each) => outcome(samples, each)),
    ["became-right", "became-wrong", "right", "all"],
  );
  assert.deepEqual([ceChange(samples, 0), ceChange(samples, 2)], [-3, NaN]);
  assert.deepEqual(
    [0, 1, 2, 3].map((each) => isWhole(run(), each)),
    [true, false, false, false],
  );
});

test("the same sample in another run is found by all that names it", () => {
  const other = run({ id: ["c-4", "a-1", "a-1", "x"], dataset: ["", "other", "", ""] });
  assert.deepEqual(
    [0, 1, 3].map((each) => twin(run(), each, other)),
    [2, -1, 0],
  );
});

test("of several components in one cell, the strongest of those that are looked at stands for them", () => {
  const js = Float32Array.of(3, NaN, 2, 5);
  assert.equal(strongestOf([0, 1, 2], Uint8Array.of(1, 1, 1, 1), js), 0);
  assert.equal(strongestOf([0, 1, 2], Uint8Array.of(0, 1, 1, 1), js), 2);
  assert.equal(strongestOf([0, 2], Uint8Array.of(0, 1, 0, 1), js), 0);
  assert.equal(strongestOf([], Uint8Array.of(1, 1, 1, 1), js), undefined);
});

test("a filter that names each of thousands of components is quick, and survives its address", () => {
  const many = Array.from({ length: 3000 }, (_, i) => `model.layers.${i % 40}.mlp.experts.${i}.down_proj`);
  const components = many.map((path) => ({ path, kind: "down_proj", layer: 0, dIn: 1, dOut: 1 }));
  const filter = many.filter((_, i) => i % 2).join(" ");
  const began = performance.now();
  assert.equal(chosen(components, filter).filter(Boolean).length, 1500);
  assert.ok(performance.now() - began < 500);
  assert.deepEqual(parse(format({ ...USUAL, filter, theme: "dark" })), { ...USUAL, filter, theme: "dark" });
});

test("no text is longer than can be read", () => {
  const line = oneLine("\n".repeat(1_000_000));
  assert.deepEqual([line.length, line.at(-1)], [4097, "…"]);
  assert.equal(textOf({ text: ["x".repeat(5000)] } as unknown as Tokens, 0).length, 4097);
});

test("an expert's line says all of it, and that none of the tokens are routed to it", () => {
  const values = new Map<Measure, Float64Array>([
    ["miub", Float64Array.of(0.5, NaN)], ["miub_se", Float64Array.of(0.25, NaN)],
    ["delta_ratio", Float64Array.of(0.125, NaN)], ["share", Float64Array.of(0.4, 0)],
    ["n_tokens", Float64Array.of(20, 0)],
  ]);
  const experts: Experts = { layers: [7], n: 2, values };
  const text = "layer 7, expert 0: MIUB 0.500 ± 0.25 nats · |delta| / |base| 0.125 · 40.0 % of tokens (20)";
  assert.equal(expertText(experts, 0), text);
  assert.equal(expertText(experts, 1), "layer 7, expert 1: no tokens");
  values.set("base_share", Float64Array.of(0.5, 0.25)).set("gained", Float64Array.of(0.01, 0));
  assert.equal(expertText(experts, 0), `${text}, 50.0 % without the adapter, 1.00 % only with it`);
  assert.match(expertText(experts, 1), /^layer 7, expert 1: no tokens, 25.0 % without the adapter, 0 % only/);
});

// Runs in the page before its own script. Each mark is taken once the frame with what it stands for has been painted by
// the page's thread. `presented` is Chromium's own word of when the first sentence was on the screen, which is later.
const bench = (globalThis.bench = { start: 0, marks: {}, armed: [], old: {} });
performance.setResourceTimingBufferSize(10_000);

const find = (selector) => document.querySelector(selector);
const parts = {
  sentence: () => find(".sentence .t"), numbers: () => find(".cell dl"), contexts: () => find(".cell .contexts li"),
  rows: () => find("#list .rows > *"), status: () => find("#list [role=status]")?.textContent,
};
const isNew = (name) => parts[name]() && parts[name]() !== bench.old[name];
const tests = {
  sentence: () => isNew("sentence") && parts.sentence().style.backgroundColor !== "",
  ribbon: () => tests.sentence() && bench.drawn > 0, // counted from where the new sentence is there
  numbers: () => isNew("numbers") && find(".cell .direction, .cell .note"),
  contexts: () => isNew("contexts"),
  rows: () => isNew("rows"),
  found: () => isNew("status") && / of /.test(parts.status()) && !/reading/.test(parts.status()),
};

function mark(name, at) {
  bench.armed = bench.armed.filter((each) => each !== name);
  bench.marks[name] = at - bench.start;
  if (Object.keys(bench.marks).length === bench.wanted) bench.finish();
}

function check(isInFrame) {
  for (const name of bench.armed.filter((each) => tests[each]?.())) {
    bench.armed = bench.armed.filter((each) => each !== name);
    const afterPaint = () => {
      const { port1, port2 } = new MessageChannel(); // its task comes after the frame is painted
      port1.onmessage = () => mark(name, performance.now());
      port2.postMessage(0);
    };
    if (isInFrame) afterPaint();
    else requestAnimationFrame(afterPaint);
  }
}

/** Wait for these parts to be new; time counts from the next input, or from the navigation's start. */
bench.arm = (names, fromInput = true) => {
  performance.clearResourceTimings();
  Object.assign(bench, { armed: names, wanted: names.length, marks: {}, drawn: 0, start: fromInput ? NaN : 0 });
  bench.old = Object.fromEntries(Object.entries(parts).map(([name, part]) => [name, fromInput && part()]));
  bench.finished = new Promise((resolve, reject) => {
    bench.finish = resolve;
    setTimeout(() => reject(new Error(`not drawn in time: ${bench.armed}`)), 30_000);
  });
};
const requests = () => ["navigation", "resource"].flatMap((type) => performance.getEntriesByType(type));
bench.requests = () => requests().map(
  ({ name, startTime, responseEnd, transferSize }) => [name, startTime, responseEnd, transferSize]);
for (const type of ["click", "input", "change"]) {
  addEventListener(type, ({ timeStamp }) => { if (Number.isNaN(bench.start)) bench.start = timeStamp; }, true);
}
const { clearRect } = CanvasRenderingContext2D.prototype;
CanvasRenderingContext2D.prototype.clearRect = function (...area) {
  if (this.canvas.closest(".ribbon") && tests.sentence()) bench.drawn++;
  check(true); // the page draws in frames only
  return clearRect.apply(this, area);
};
bench.arm(["sentence", "ribbon", "presented"], false);
new PerformanceObserver((list) => {
  const sentence = list.getEntries().find(({ element }) => element?.matches(".sentence"));
  if (sentence && bench.armed.includes("presented")) mark("presented", sentence.startTime);
}).observe({ type: "largest-contentful-paint", buffered: true });
new MutationObserver(() => check(false)).observe(document, { childList: true, subtree: true, characterData: true });

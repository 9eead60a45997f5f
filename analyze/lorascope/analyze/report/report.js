"use strict";
// Light or dark, and samples drawn from the data in the page. Whatever comes from a store is only ever set as text.
const make = (tag, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
};

const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
const toggle = make("button", { className: "theme", type: "button" });
function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  toggle.textContent = theme === "dark" ? "Light" : "Dark";
}
setTheme(prefersDark.matches ? "dark" : "light");
prefersDark.addEventListener("change", () => setTheme(prefersDark.matches ? "dark" : "light"));
toggle.addEventListener("click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
document.body.prepend(toggle);

const source = document.getElementById("token-data");
if (source) showSamples(JSON.parse(source.textContent));

function showSamples(data) {
  const AT_ONCE = 20;
  const list = document.getElementById("texts-list");
  const topShown = document.getElementById("texts-top");
  const wholeTop = Number(list.dataset.top);
  const packed = (text, type) => new type(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
  const position = packed(data.position, Uint32Array);
  const role = packed(data.role, Uint8Array);
  const nll = packed(data.nll, Uint16Array);
  const js = packed(data.js, Uint16Array);
  const values = packed(data.values, Uint8Array);
  const underlined = new Set(data.underlined);
  const speakers = new Set(data.speakers);
  let first = 0, carried = 0;
  data.samples.forEach((sample, place) => {
    sample.tokens = data.texts[place];
    sample.first = first;
    first += sample.tokens.length;
    sample.carried = sample.carries ? carried : -1;
    if (sample.carries) carried += sample.tokens.length;
  });
  let members = []; // components that the tokens show; none: all of them, summed
  let limit = AT_ONCE, strongest = wholeTop;

  const decoded = (code, last, low, top) =>
    code === 0 ? 0 : code > last ? NaN : low * (top / low) ** ((code - 1) / (last - 1));
  const partOf = (place) =>
    members.reduce((sum, one) => sum + decoded(values[one * carried + place], 254, data.components[one].low, data.components[one].top), 0);
  const valueOf = (sample, token) =>
    members.length ? partOf(sample.carried + token) : decoded(js[sample.first + token], 65534, data.js_low, data.js_top);
  const meanOf = (sample) =>
    members.length ? sample.tokens.reduce((sum, _, token) => sum + valueOf(sample, token), 0) / sample.tokens.length : sample.miub;
  const superscript = (power) => [...power].map((sign) => ({ "-": "⁻" })[sign] ?? "⁰¹²³⁴⁵⁶⁷⁸⁹"[sign]).join("");
  function number(value, digits = members.length ? 2 : 3) {
    if (value === null || Number.isNaN(value)) return "n/a";
    if (value === 0) return "0";
    const [digitsOf, power] = value.toExponential(digits - 1).split("e");
    return power < -3 || power > 5
      ? `${digitsOf}·10${superscript(power.replace("+", ""))}`
      : Number(`${digitsOf}e${power}`).toFixed(Math.max(digits - 1 - power, 0));
  }

  function drawSample(sample, most = data.most) {
    const tokens = make("p", { className: "tokens" });
    const gap = (n) => make("span", { className: "gap", title: `${n} tokens weren't captured`, textContent: `[${n}]` });
    let expected = 0, before = "";
    sample.tokens.slice(0, most).forEach((text, token) => {
      const at = sample.first + token, name = data.roles[role[at]] ?? "no role";
      if (position[at] > expected) tokens.append(gap(position[at] - expected));
      if (speakers.has(name) && name !== before) tokens.append(make("span", { className: "role", textContent: name }));
      [expected, before] = [position[at] + 1, name];
      const value = valueOf(sample, token), loss = nll[at] === 65535 ? NaN : nll[at] / 1000;
      const span = make("span", { className: "t", textContent: text });
      span.title = `position ${position[at]}, ${name}: JS ${number(value)} nat, nll ${number(loss, 3)} nat`;
      if (underlined.has(name)) span.classList.add("answer");
      if (name === "template") span.classList.add("template");
      span.style.setProperty("--js", `${strongest > 0 && value > 0 ? Math.min(100, (100 * value) / strongest) : 0}%`);
      tokens.append(span);
    });
    const left = sample.captured - Math.min(most, sample.tokens.length);
    if (left > 0) {
      const more = make("button", { type: "button", textContent: `${left} more captured tokens` });
      if (sample.tokens.length > most) {
        more.addEventListener("click", () => more.closest("article").replaceWith(drawSample(sample, sample.tokens.length)));
        tokens.append(more);
      } else tokens.append(make("span", { className: "gap", textContent: `[${left} more captured tokens aren't in this page]` }));
    } else if (expected < sample.length) tokens.append(gap(sample.length - expected));
    const change = sample.change === null ? "" : `, loss ${number(sample.loss - sample.change, 3)} → ${number(sample.loss, 3)} nat/token`;
    const heading = make("h3", {}, `${sample.title} `, make("small", { textContent: `${members.length ? "JS" : "MIUB"} ${number(meanOf(sample))} nat${change}` }));
    const article = make("article", { className: "sample" }, heading, tokens);
    if (sample.answers) article.append(make("p", { className: "picked", textContent: sample.answers }));
    return article;
  }

  const by = (key, sign) => (a, b) => {
    const [one, other] = [a, b].map((sample) => key(sample) ?? NaN);
    return Number.isNaN(one) - Number.isNaN(other) || sign * (one - other) || 0; // unknown ones last
  };
  const orders = {
    "even steps from most to least moved": null,
    "most moved first": by(meanOf, -1),
    "least moved first": by(meanOf, 1),
    "loss fell most": by((sample) => sample.change, 1),
    "loss rose most": by((sample) => sample.change, -1),
    "as in the data": by((sample) => sample.place, 1),
  };
  if (data.samples.every((sample) => sample.change === null)) {
    delete orders["loss fell most"];
    delete orders["loss rose most"];
  }
  const search = make("input", { type: "search", placeholder: "search in texts and ids", ariaLabel: "Search samples" });
  const sort = make("select", { ariaLabel: "Order of samples" });
  for (const name of Object.keys(orders)) sort.append(make("option", { value: name, textContent: name }));
  const which = make("select", { ariaLabel: "Component whose JS is shown" }, make("option", { value: "", textContent: "all components" }));
  if (carried) data.components.forEach((one, place) => which.append(make("option", { value: place, textContent: one.path })));
  const back = make("button", { type: "button", textContent: "show all components", hidden: true });
  const count = make("span", { className: "count", role: "status" });
  const more = make("button", { type: "button", textContent: "show more" });
  const tapped = make("p", { className: "tapped", role: "status", hidden: true });
  document.getElementById("texts-controls").append(search, sort, which, back, count);
  list.after(more, tapped);

  function chosen() {
    const words = search.value.trim().toLowerCase();
    const held = data.samples.filter((sample) => !members.length || sample.carries);
    const found = held.filter((sample) => !words || (sample.text ??= `${sample.title}\n${sample.tokens.join("")}`.toLowerCase()).includes(words));
    const order = orders[sort.value];
    if (order) return { held, found, shown: found.sort(order) };
    if (words) return { held, found, shown: found };
    const known = found.filter((sample) => sample.miub !== null); // from most to least moved already
    const n = Math.min(5, known.length);
    const steps = Array.from({ length: n }, (_, k) => known[Math.round((k * (known.length - 1)) / Math.max(n - 1, 1))]);
    return { held, found, shown: steps };
  }
  function draw() {
    const { held, found, shown } = chosen();
    list.replaceChildren(...shown.slice(0, limit).map((sample) => drawSample(sample)));
    count.textContent = `${Math.min(limit, shown.length)} shown of ${found.length === held.length ? "" : `${found.length} found among `}${held.length} samples`;
    more.hidden = shown.length <= limit;
  }
  function restart() {
    limit = AT_ONCE;
    draw();
  }
  function showComponents(chosenOnes) {
    members = chosenOnes;
    strongest = wholeTop;
    if (members.length) {
      const all = Float64Array.from({ length: carried }, (_, place) => partOf(place)).filter((value) => !Number.isNaN(value)).sort();
      strongest = all[Math.round(0.98 * (all.length - 1))] ?? 0;
    }
    which.value = members.length === 1 ? members[0] : "";
    if (members.length > 1) which.selectedIndex = -1;
    topShown.textContent = number(strongest);
    back.hidden = !members.length;
    restart();
  }
  let waiting;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(restart, 150); });
  sort.addEventListener("change", restart);
  which.addEventListener("change", () => showComponents(which.value === "" ? [] : [Number(which.value)]));
  back.addEventListener("click", () => showComponents([]));
  more.addEventListener("click", () => { limit += AT_ONCE; draw(); });
  list.addEventListener("click", (event) => {
    if (!event.target.classList.contains("t")) return;
    tapped.hidden = false;
    tapped.textContent = `“${event.target.textContent}” ${event.target.title}`;
  });

  const plot = document.getElementById("js-map");
  const unescaped = (text) => new DOMParser().parseFromString(text, "text/html").body.textContent;
  function onCell(event) {
    const { x, y } = event.points[0], kind = unescaped(y);
    const cell = data.components.map((one, place) => ({ ...one, place })).filter((one) => one.kind === kind && (one.layer < 0 ? "outside" : String(one.layer)) === String(x));
    if (!cell.length || !carried) return;
    showComponents(cell.map((one) => one.place));
    document.getElementById("texts").scrollIntoView();
  }
  const listen = () => plot.on && Boolean(plot.on("plotly_click", onCell));
  const drawn = new MutationObserver(() => listen() && drawn.disconnect());
  if (plot && !listen()) drawn.observe(plot, { childList: true }); // Plotly hasn't been there yet
  draw();
}

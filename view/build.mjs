// Makes the page: one HTML file with script and style inline, from src/main.ts, src/ui/page.css and src/page.html.
// `node build.mjs [OUT]`; the same sources and lock file always give the same bytes.

import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import { withBounds } from "./plugins.mjs";

const HERE = import.meta.dirname;
const LIMIT_BYTES = 150_000; // gzipped: what a first visit may load in addition to the run itself
const out = process.argv[2] ?? `${HERE}/../analyze/lorascope/analyze/viewing/page.html`;

// zarrita imports WebAssembly decoders on demand; src/data/codecs.ts has taken their places by then.
const withoutNumcodecs = {
  name: "without-numcodecs",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /^numcodecs\// }, ({ path }) => ({ path, namespace: "nothing" }));
    onLoad({ filter: /.*/, namespace: "nothing" }, () => ({ contents: "export default undefined" }));
  },
};

const { outputFiles, metafile } = await build({
  absWorkingDir: HERE,
  entryPoints: { script: "src/main.ts", style: "src/ui/page.css" },
  outdir: "out",
  bundle: true,
  minify: true,
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  metafile: true,
  write: false,
  plugins: [withBounds, withoutNumcodecs],
});
const [script, style] = [".js", ".css"].map((end) => outputFiles.find(({ path }) => path.endsWith(end)).text.trim());

const packageOf = (path) => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? [];
const bundled = [...new Set(Object.keys(metafile.inputs).flatMap(packageOf))].sort();
const licenceOf = (name) => `${name}\n\n${readFileSync(`${HERE}/node_modules/${name}/LICENSE`, "utf8").trim()}`;

const hash = (text) => `'sha256-${createHash("sha256").update(text).digest("base64")}'`;
const parts = {
  script,
  style,
  licences: bundled.map(licenceOf).join("\n\n").replaceAll("--", "- -"),
  "script-hash": hash(script),
  "style-hash": hash(style),
};
const page = readFileSync(`${HERE}/src/page.html`, "utf8").replace(/\{\{([a-z-]+)\}\}/g, (_, name) => parts[name]);

const gzipped = gzipSync(page, { level: 9 }).length;
console.log(`page.html: ${Buffer.byteLength(page)} bytes, ${gzipped} gzipped; bundled: ${bundled.join(", ")}`);
if (/<!--|<\/?script/i.test(script)) throw new Error("the script holds a tag that would end it");
if (gzipped > LIMIT_BYTES) throw new Error(`page.html has ${gzipped} bytes gzipped; ${LIMIT_BYTES} are allowed`);
writeFileSync(out, page);

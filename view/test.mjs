// Bundles test/*.test.ts into build/test/ and runs them with Node's own runner; further arguments go to it.

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { build } from "esbuild";
import { withBounds } from "./plugins.mjs";

const HERE = import.meta.dirname;
const names = readdirSync(`${HERE}/test`).filter((name) => name.endsWith(".test.ts"));
await build({
  absWorkingDir: HERE,
  entryPoints: names.map((name) => `test/${name}`),
  outdir: "build/test",
  bundle: true,
  platform: "node",
  format: "esm",
  target: "es2022",
  outExtension: { ".js": ".mjs" },
  external: ["numcodecs/*"],
  plugins: [withBounds],
  sourcemap: "inline",
});
const files = names.map((name) => `build/test/${name.replace(/ts$/, "mjs")}`);
const options = ["--test", "--enable-source-maps", ...process.argv.slice(2)];
process.exit(spawnSync(process.execPath, [...options, ...files], { cwd: HERE, stdio: "inherit" }).status ?? 1);

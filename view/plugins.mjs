// What esbuild changes in what it bundles.

import { readFileSync } from "node:fs";

/** Without these changes fzstd may silently write past its output's end, loop for hours or for ever, or not fill its output. */
const CHANGES = {
  "oubt += ml;": "if (!((oubt += ml) <= buf.length)) err(0);",
  "fpos -= btr1;": "if (wc > 255) err(0); $&",
  "bt = st.b + (st.c * 4);": "if (st.y != buf.length) err(0); $&",
};

export const withBounds = {
  name: "with-bounds",
  setup({ onLoad }) {
    onLoad({ filter: /fzstd.esm.index\.mjs$/ }, ({ path }) => {
      let contents = readFileSync(path, "utf8");
      for (const [from, to] of Object.entries(CHANGES)) {
        if (contents.split(from).length !== 2) throw new Error(`fzstd no longer has \`${from}\`: see what checks lengths`);
        contents = contents.replace(from, to);
      }
      return { contents };
    });
  },
};

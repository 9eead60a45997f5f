import { readFileSync } from "node:fs";

/** Bytes of a file below view/; tests run there. */
export const fileBytes = (path: string): Uint8Array => new Uint8Array(readFileSync(path));

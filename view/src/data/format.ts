/** Constants of the store's format that Python has too; tests/view/test_units.py compares them. */

/** Tokens of a row, the unit in which a run is written. */
export const ROW_TOKENS = 1024;
/** Purposes of a token; a role's number is its place here. */
export const ROLES = ["prompt", "choice", "answer", "generated", "text", "system", "user", "assistant", "tool", "template"];
/** Factors on an adapter's scaling with which a model replies to prompts. */
export const REPLY_SCALES = [0, 1, 1.5, 2];
/** Bytes of a chunk of texts, at most. */
export const MAX_TEXT_BYTES = 67_108_864;
/** Bytes of any chunk, at most. */
export const MAX_CHUNK_BYTES = 2_147_483_647;
/** Entries of a chunk of a table. */
export const TABLE_CHUNK = 65_536;

/** What a model replied to short prompts. */

import { readInto, texts } from "./columns";
import { REPLY_SCALES } from "./format";
import type { Opened } from "./runs";
import { DataError, type Reply } from "./types";

/** The prompts of a run with the replies by an adapter, in order; none if it has none. */
export async function readReplies({ store, adapters }: Opened, adapter: number): Promise<Reply[]> {
  const { name, nReplies: n } = adapters[adapter]!;
  if (!n) return [];
  const root = `adapters/${name}/replies`, n_scales = REPLY_SCALES.length;
  const [prompts, replies, scale] = await Promise.all([
    texts(store, `${root}/prompt`, n), texts(store, `${root}/text`, n), readInto(new Float32Array(n), store, `${root}/scale`),
  ]);
  if (n % n_scales || scale.some((value, i) => value !== REPLY_SCALES[i % n_scales])) {
    throw new DataError(`the replies of ${store.name} aren't at the scales ${REPLY_SCALES.join(", ")}; ${store.repair}`);
  }
  return Array.from({ length: n / n_scales }, (_, i) => {
    const at = i * n_scales;
    return { prompt: prompts[at]!, texts: replies.slice(at, at + n_scales) };
  });
}

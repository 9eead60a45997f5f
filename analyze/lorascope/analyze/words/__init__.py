"""Words that an adapter makes likelier: delta read through the unembedding, and texts around tokens."""

"""`verify`: digests, decoding, statistics, rows that repeat or slipped."""

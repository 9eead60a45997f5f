"""The format: arrays, tables, codecs and digests, as functions that open nothing."""

"""The format: arrays, tables, codecs, digests; plain functions that open nothing."""

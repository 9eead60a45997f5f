"""Samples: items of data, encoded as tokens with roles, their batches, captured tokens, scores and tables."""

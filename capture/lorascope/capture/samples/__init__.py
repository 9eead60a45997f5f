"""Data to what a model reads: text, tokens with roles, which are kept, batches; their scores and tables."""

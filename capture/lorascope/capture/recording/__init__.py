"""One forward pass a batch with hooks on: what they take, what proves it, what becomes of it."""

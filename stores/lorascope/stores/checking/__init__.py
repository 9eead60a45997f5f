"""`verify`: checks of digests, chunks, metadata and numbers."""

"""Where a run lies: a folder, or an object store."""

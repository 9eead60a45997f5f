"""Places of runs: a folder, or an object store."""

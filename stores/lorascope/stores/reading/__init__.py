"""Opening and reading runs: lazily, committed rows only, and checked before use."""

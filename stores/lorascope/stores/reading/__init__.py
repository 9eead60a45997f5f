"""A run opened: lazily, committed rows only, nothing believed before it is checked."""

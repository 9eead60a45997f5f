"""Plans of captures: disk, memory and time, before a capture starts."""

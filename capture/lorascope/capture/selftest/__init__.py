"""The selftest: checks of captures on this machine, and how fast they are."""

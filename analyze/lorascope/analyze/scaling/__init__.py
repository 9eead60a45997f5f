"""Fits of scaling laws: laws, what a design can tell, engine, intervals, selection, verdicts."""

"""The pass that captures: hooks, measures, the proof of sums, and the rows that they fill."""

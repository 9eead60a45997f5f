"""Scaling laws and statistics of tables of runs: laws, intervals, tests, resampling."""

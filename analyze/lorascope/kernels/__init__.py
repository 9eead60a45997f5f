"""Compiled row kernels: each takes rows and fills one number a row, and starts no threads."""

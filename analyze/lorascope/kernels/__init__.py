"""Compiled kernels that compute one number per row of an array; they start no threads."""

"""Tests of monotone trend over ordered settings, exact and by block."""

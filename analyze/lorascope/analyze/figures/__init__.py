"""Plots as functions: xarray in, plotly figure out."""

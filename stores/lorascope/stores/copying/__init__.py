"""A run into another, whole or in part: `pull`."""

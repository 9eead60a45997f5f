"""A run made or gone on with: whole rows, each committed by its digest."""

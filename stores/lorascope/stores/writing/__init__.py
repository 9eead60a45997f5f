"""Writing a run, new or resumed: whole rows, each committed by its digest."""

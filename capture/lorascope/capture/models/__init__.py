"""The model: loaded, identified, its weights whole wherever they lie."""

"""The model: loading it, identifying it, and reading its weights wherever they are."""

"""Changes that an adapter makes to the next token: by token, form and theme, by choice, place and earlier word."""

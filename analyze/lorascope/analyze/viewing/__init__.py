"""The page of `lorascope view`: any run in a browser, from static files."""

"""Whether captures on this machine are right, and how fast they are."""

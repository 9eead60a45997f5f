"""Studies on the command line: what options mean, how a result prints, and where it is written."""

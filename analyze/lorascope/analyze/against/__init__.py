"""Compare a run with a merged model or a server, and say whether that still is the run's adapter."""

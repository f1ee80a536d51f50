"""Who computes an op: `protocol` says what a backend is, `registry` lists those there are."""

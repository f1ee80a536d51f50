"""Who computes an op: one record a backend, see `registry`."""

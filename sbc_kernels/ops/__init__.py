"""The ops, public and on checked arrays."""

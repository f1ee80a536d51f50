"""Somebody's network: copied, run, watched, left undisturbed."""

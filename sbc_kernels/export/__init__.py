"""Compressed networks for other tools."""

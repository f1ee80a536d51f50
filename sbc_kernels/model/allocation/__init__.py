"""How much of each layer goes."""

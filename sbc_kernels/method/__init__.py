"""How the rows of a layer are compressed."""

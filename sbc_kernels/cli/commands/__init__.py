"""The commands, a file each. What they share is one folder up."""

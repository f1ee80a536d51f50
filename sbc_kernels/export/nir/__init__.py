"""The Neuromorphic Intermediate Representation."""

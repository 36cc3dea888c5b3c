"""Evaluation of a backbone: features, and protocols, one file each, that yield (name, value)."""

"""Reads run folders and shows what hard views did; loads no models."""

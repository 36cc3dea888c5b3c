"""Formats that Pillow does not read, or not as they are stored: one file each, and a table of them."""

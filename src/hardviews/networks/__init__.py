"""Backbones and the heads that methods put on them."""

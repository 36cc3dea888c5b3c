"""Draws views as numbers and renders them to pixels."""

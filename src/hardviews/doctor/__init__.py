"""Whether a set-up is sound, by a few steps before days are spent on it."""

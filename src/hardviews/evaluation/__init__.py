"""What a backbone is worth: features, and one file per protocol that yields (name, value)."""

"""Hard views in the trainers of others: one file per library (docs/adapters.md)."""

"""Training one network in several processes: agreement between them, and sharding."""

"""The processes that share a run: starting them, counting them, ending them together."""

"""Several processes that train one network: where they agree, and what is sharded."""

"""Steps that learn nothing: the memory and the time that a run will take, and the batch size that fits."""

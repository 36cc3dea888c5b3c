"""From a data set to batches: order, workers, and small sets held in memory."""

"""Training: batches, what is minimised, a step, a run of epochs."""

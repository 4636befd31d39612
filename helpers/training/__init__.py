# The training loop and its checkpoints (notebook 03).

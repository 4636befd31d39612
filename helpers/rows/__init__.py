# Tables whose rows live in CPU memory and visit the compute device batch by batch, and the optimisers of rows (notebook 03).

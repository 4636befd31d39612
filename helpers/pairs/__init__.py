# Citations in, training pairs out: the held-out split, pairs as CSR by target, blocks, the noise distribution (notebook 02).

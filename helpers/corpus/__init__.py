# Dumps in, papers and citations out: readers of each format, subsets, ids in descending degree, citations as CSR (notebook 01).

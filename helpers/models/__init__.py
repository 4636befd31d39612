# What is trained: skip-gram with negative sampling, and the tables it starts from (notebook 03).

# Trained tables in, answers out: neighbours of papers, and how good they are (notebook 04).

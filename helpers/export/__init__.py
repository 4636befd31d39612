# The answer carried away: the embeddings folder, other file forms, a verified copy on Drive (notebooks 04 and 06).

//! What the author of an llmdbench plugin depends on.

"""Fine-tunes, scores and prices the cells of a language table."""

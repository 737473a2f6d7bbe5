"""Pictures to learn from, and the subjects that are held out."""

"""Scores from embeddings, and how sure they are."""

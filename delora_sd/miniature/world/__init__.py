"""The renderer of the miniature world."""

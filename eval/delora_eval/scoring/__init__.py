"""Images and photos in, score lines out."""

"""Pictures and photos in, score lines out."""

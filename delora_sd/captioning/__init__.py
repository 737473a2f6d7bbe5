"""Captions for photos by an image-to-text model, with the subject's identity left out."""

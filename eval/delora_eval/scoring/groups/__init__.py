"""Image sets that are scored together: files in, scores per subject out."""

"""What a language table says: Markdown, CSV, LaTeX, figures and one page."""

"""Views to HTML: pure functions, every text from a file or a person escaped."""

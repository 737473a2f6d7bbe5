"""A toy language with a grammar and meanings, and two small models that were trained on it."""

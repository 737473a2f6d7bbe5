"""Photos, subjects, prompts and templates: everything about the pictures that come in."""

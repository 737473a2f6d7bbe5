"""Photos, subjects, prompts and templates: everything about the images that come in."""

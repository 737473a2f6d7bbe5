"""How the language miniature's weights were made."""

"""YAML and key=value words to frozen dataclasses."""

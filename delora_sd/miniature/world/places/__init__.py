"""Contexts: where a subject is seen."""

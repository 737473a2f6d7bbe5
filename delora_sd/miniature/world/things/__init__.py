"""Subjects: identities, their looks and shapes."""

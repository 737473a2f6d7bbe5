"""The paper's tables in language: which sentences are tested, how they are scored, and how it is reported."""

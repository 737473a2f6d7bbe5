"""Language models: which layers are adapted, where a base lies, what is put on it and what is kept of it."""

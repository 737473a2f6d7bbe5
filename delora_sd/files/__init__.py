"""Files and folders of a run: written whole or not at all, read with care, locked while in use."""

"""Running a benchmark: phases, packs, claims, launchers."""

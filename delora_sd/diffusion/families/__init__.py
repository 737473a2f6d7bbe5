"""The families of bases, one file each: everything that differs between bases, and nothing else."""

"""The networks behind the judges: architectures, their weight files, what they are fed, and how they run."""

"""The door: `delora-sd COMMAND`."""

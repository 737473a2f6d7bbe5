"""The judge's commands. Heavy imports sit inside the functions: `--help` answers at once."""

from delora_sd.command import Command

COMMANDS: dict[str, Command] = {}

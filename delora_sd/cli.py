"""`delora-sd COMMAND [CONFIG.yaml ...] [key=value ...]`: load the settings, call one function.

Commands come from the installed packages (entry points), so the maker never imports the judge.
Exit code 0: done. 2: the user can fix it (one line says how). 1: our mistake (--debug shows where).
"""

import sys
import warnings
from importlib.metadata import entry_points
from typing import Any

from delora_sd import __version__
from delora_sd.command import Command
from delora_sd.config import describe, load_config, to_yaml
from delora_sd.errors import UserError, nearest_name

FLAGS = ("--help", "-h", "--dry-run", "--debug")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    warnings.showwarning = _show_warning
    try:
        return _dispatch(arguments)
    except UserError as error:
        if debug:
            raise
        print(f"delora-sd: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("delora-sd: stopped; run the same command again to go on", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"delora-sd: unexpected {type(error).__name__}: {error} (--debug shows where)", file=sys.stderr)
        return 1


def load_commands() -> dict[str, Command]:
    """Returns {name: command} of every installed package that offers some."""
    commands: dict[str, Command] = {}
    for entry in entry_points(group="delora_sd.commands"):
        commands |= entry.load()
    return commands


def parse(command: Command, arguments: list[str]) -> Any:
    """Returns the command's config: YAML files left to right, then bare words, then key=value."""
    words = [argument for argument in arguments if argument not in FLAGS]
    unknown = [word for word in words if word.startswith("-")]
    if unknown:
        raise UserError(f"unknown flag '{unknown[0]}'{nearest_name(unknown[0], FLAGS)}; settings are key=value")
    files = [word for word in words if _is_settings_file(word)]
    bare = [word for word in words if "=" not in word and word not in files]
    if len(bare) > len(command.positional):
        accepted = ", ".join(command.positional) or "only .yaml files and key=value"
        raise UserError(f"'{bare[-1]}' is not understood; accepted without a key: {accepted}")
    positional = [f"{key}={value}" for key, value in zip(command.positional, bare, strict=False)]
    return load_config(command.config, files, positional + [word for word in words if "=" in word])


def _dispatch(arguments: list[str]) -> int:
    commands = load_commands()
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is None:
        print(f"delora_sd {__version__}" if "--version" in arguments else _overview(commands))
        return 0
    if name not in commands:
        raise UserError(f"unknown command '{name}'{nearest_name(name, tuple(commands))}")
    command, rest = commands[name], list(arguments)
    rest.remove(name)
    if "--help" in rest or "-h" in rest:
        print(_help(name, command))
        return 0
    config = parse(command, rest)
    run = command.run if "--dry-run" not in rest else command.dry_run or _print_settings
    run(config)
    return 0


def _print_settings(config: Any) -> None:
    print(to_yaml(config), end="")


def _is_settings_file(word: str) -> bool:
    return "=" not in word and word.endswith((".yaml", ".yml"))


def _overview(commands: dict[str, Command]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "delora-sd COMMAND [CONFIG.yaml ...] [key=value ...]",
            "",
            *lines,
            "",
            "`delora-sd COMMAND --help` explains every setting; `--dry-run` prints the resolved ones.",
        ]
    )


def _help(name: str, command: Command) -> str:
    words = " ".join(word.upper() for word in command.positional)
    lines = [f"delora-sd {name} {words} [CONFIG.yaml ...] [key=value ...]".replace("  ", " "), "", command.summary]
    lines += [f"Example: {command.example}", "", "Settings (key=default):"]
    for key, default, doc in describe(command.config):
        lines += [f"  {key}={default}"] + ([f"      {doc}"] if doc else [])
    lines += ["", "Flags: --dry-run prints the resolved settings and stops; --debug shows tracebacks."]
    return "\n".join(lines)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"delora-sd: warning: {message}", file=sys.stderr)

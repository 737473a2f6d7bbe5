"""`delora-sd COMMAND [CONFIG.yaml ...] [key=value ...]`: load the settings, call one function.

Commands come from the installed packages (entry points), so the maker never imports the judge.
Exit code 0: done. 2: the user can fix it (one line says how). 1: our mistake (--debug shows where).
130, 143: stopped by Ctrl-C or SIGTERM; what was made is kept, and the same command again goes on.
"""

import errno
import json
import logging
import os
import re
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from delora_sd import __version__
from delora_sd.cli.command import Command
from delora_sd.config.load import describe, load_config, to_yaml
from delora_sd.config.overlay import find_hint
from delora_sd.config.words import accepted
from delora_sd.errors import UserError, nearest_name
from delora_sd.signals import Stopped, stopping_at_once

OUR_PACKAGES = ("delora_sd", "delora_eval")

FLAGS = ("--help", "-h", "--dry-run", "--json", "--debug", "--version")

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
"""What the machine's owner can fix, wherever it comes up."""

_SETTING = re.compile(r"\w+(\.[^=]*)?=")
"""`key=value` and `section.key=value`, but not a path such as runs/lr=1e-3."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--debug" not in arguments:
        warnings.showwarning = _show_our_warning
        _silence_other_packages()
    else:
        warnings.showwarning = _show_warning
    try:
        with stopping_at_once():
            _dispatch(arguments)
        sys.stdout.flush()
        return 0
    except BrokenPipeError:
        _silence_stdout()
        return 141
    except Stopped as stop:
        _complain(f"{stop}; run the same command again to go on")
        return stop.exit_code
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        code, message = _explain(error)
        _complain(message)
        return code


def load_commands() -> dict[str, Command]:
    """Returns {name: command} of every installed package that offers some, the maker's first."""
    commands: dict[str, Command] = {}
    for entry in sorted(entry_points(group="delora_sd.commands"), key=lambda entry: entry.name != "maker"):
        commands |= entry.load()
    if not commands:
        raise UserError("delora_sd is not installed; run `pip install -e .` in its folder, or bash scripts/test.sh")
    return commands


def parse(command: Command, arguments: list[str]) -> Any:
    """Returns the command's config: YAML files left to right, then bare words, then key=value."""
    words = [argument for argument in arguments if argument not in FLAGS]
    _check_flags(words)
    files = [word for word in words if _is_settings_file(word)]
    given = [word for word in words if _SETTING.match(word)]
    bare = [word for word in words if word not in files and word not in given]
    own, more = bare[: len(command.positional)], bare[len(command.positional) :]
    if more and command.many is None:
        names = ", ".join(command.positional) or "only .yaml files and key=value"
        raise UserError(f"'{bare[-1]}' is not understood; accepted without a key: {names}")
    positional = [f"{key}={value}" for key, value in zip(command.positional, own, strict=False)]
    if more:
        positional.append(f"{command.many}={json.dumps(more)}")
    return load_config(command.config, files, positional + given)


def _dispatch(arguments: list[str]) -> None:
    commands = load_commands()
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    if name is None:
        _check_flags(arguments)
        print(f"delora_sd {__version__}" if "--version" in arguments else _overview(commands))
        return
    if name not in commands:
        raise UserError(f"unknown command '{name}'{nearest_name(name, tuple(commands))}")
    command, rest = commands[name], list(arguments)
    rest.remove(name)
    if "--help" in rest or "-h" in rest:
        print(_help(name, command))
        return
    config = parse(command, rest)
    _work_of(name, command, rest, commands)(config)


def _work_of(name: str, command: Command, flags: list[str], commands: dict[str, Command]) -> Callable[[Any], None]:
    """Returns what the flags ask of the command."""
    if "--json" in flags:
        if command.run_json is None or "--dry-run" in flags:
            able = ", ".join(each for each, known in commands.items() if known.run_json)
            raise UserError(f"--json: not of `{name}`{' --dry-run' if '--dry-run' in flags else ''}; only of {able}")
        return command.run_json
    return command.run if "--dry-run" not in flags else command.dry_run or _print_settings


def _check_flags(words: list[str]) -> None:
    unknown = [word for word in words if word.startswith("-") and word not in FLAGS]
    if unknown:
        close = nearest_name(unknown[0], FLAGS)
        raise UserError(f"unknown flag '{unknown[0]}'{close} (settings are key=value, without dashes)")


def _explain(error: Exception) -> tuple[int, str]:
    """Returns (exit code, message): 2 for what the user can fix, 1 for our mistakes."""
    if isinstance(error, UserError):
        return 2, str(error)
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        return 2, f"{error.filename or 'disk'}: {error.strerror}"
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError"):
        return 2, (
            "out of memory; try a smaller batch_size or model.size_px, model.dtype=bf16, "
            f"training.gradient_checkpointing=true, or free the device ({error})"
        )
    return 1, f"unexpected {type(error).__name__}: {error} (--debug shows where)"


def _complain(message: str) -> None:
    """Whatever the message holds, it is one line; what would steer the terminal is shown as an escape."""
    line = " ".join(message.split())
    shown = "".join(part if part.isprintable() else part.encode("unicode_escape").decode() for part in line)
    print(f"delora-sd: {shown}", file=sys.stderr)


def _silence_stdout() -> None:
    """The reader has gone (`| head`): what is still buffered must not fail when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
            "Exit code: 0 done, 2 something you can fix, 1 our mistake, 130 Ctrl-C, 143 SIGTERM.",
        ]
    )


def _help(name: str, command: Command) -> str:
    words = " ".join(word.upper() for word in command.positional) + (" A B ..." if command.many else "")
    lines = [f"delora-sd {name} {words} [CONFIG.yaml ...] [key=value ...]".replace("  ", " "), "", command.summary]
    lines += [f"Example: {command.example}", "", "Settings (key=default):"]
    for key, default, doc in describe(command.config):
        lines.append(f"  {key}={default}  ({accepted(find_hint(command.config, tuple(key.split('.'))))})")
        lines += textwrap.wrap(
            doc, width=100, initial_indent=" " * 6, subsequent_indent=" " * 6, break_on_hyphens=False
        )
    as_json = " --json prints one JSON document instead of a table;" if command.run_json else ""
    lines += ["", f"Flags: --dry-run prints the resolved settings and stops;{as_json} --debug shows tracebacks."]
    return "\n".join(lines)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _complain(f"warning: {message}")


def _show_our_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Shows what our own code warns of; what packages tell each other is for --debug.

    Who warned is read from the stack: the file a warning names may be a decorator's.
    """
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") == "warnings":
        frame = frame.f_back
    if frame is None or str(frame.f_globals.get("__name__")).partition(".")[0] in OUR_PACKAGES:
        _show_warning(message)


def _silence_other_packages() -> None:
    """Their loggers speak when they are imported, before every command: errors only."""
    for variable in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    for logger in ("torch.utils._pytree", "torchao"):
        logging.getLogger(logger).setLevel(logging.ERROR)

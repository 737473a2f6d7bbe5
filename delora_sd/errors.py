"""The one exception that means "the user can fix this": printed as one line, exit code 2, no traceback."""

import errno

_DISK_REFUSES = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class UserError(Exception):
    """A mistake in what the user gave us.

    The message is one line: which field or file, what was found, what is accepted, what to do.
    """


class DiskError(UserError):
    """The disk does not take what is written: full, read-only, not allowed. No fault of what was being made."""


def is_disk_error(error: Exception) -> bool:
    """True for what every other write would meet as well."""
    return isinstance(error, DiskError) or (isinstance(error, OSError) and error.errno in _DISK_REFUSES)


def nearest_name(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns "; did you mean 'dog'?" when a known name is close, else the list of what exists."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"

"""The one exception that means "the user can fix this": printed as one line, exit code 2, no traceback."""


class UserError(Exception):
    """A mistake in what the user gave us.

    The message is one line: which field or file, what was found, what is accepted, what to do.
    """


def nearest_name(name: str, known: list[str] | tuple[str, ...]) -> str:
    """Returns "; did you mean 'dog'?" when a known name is close, else the list of what exists."""
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"

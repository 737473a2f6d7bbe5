"""Which packages this Python has. No package is imported for it: a broken one can still be named."""

from importlib.metadata import PackageNotFoundError, version


def package_version(name: str) -> str | None:
    """Returns the installed version, None when the package is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None

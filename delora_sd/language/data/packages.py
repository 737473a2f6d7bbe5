"""Packages that only language needs: imported where they are used, with the line that installs them."""

import importlib
from types import ModuleType

from delora_sd.errors import UserError

INSTALL = "pip install 'delora_sd[language]'"


def need(name: str) -> ModuleType:
    """Returns the imported package.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name.partition('.')[0]} is missing ({error}); {INSTALL}") from None

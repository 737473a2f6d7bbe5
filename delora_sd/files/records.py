"""What we wrote as JSON and read again, perhaps from somebody else's disk: every field that is used has its type.

Knows no files; whoever reads one names it as `source`.
"""

import types
from collections.abc import Mapping
from functools import cache
from typing import Any, get_args

from delora_sd.config.words import accepted, show
from delora_sd.errors import UserError

_PYTHON = {
    str: (str,),
    int: (int,),
    float: (int, float),
    bool: (bool,),
    dict: (dict,),
    types.NoneType: (types.NoneType,),
}
_KINDS = {dict: "mapping"}


def check_record(
    record: Any, needed: Mapping[str, Any], optional: Mapping[str, Any] | None = None, *, source: str, advice: str
) -> dict[str, Any]:
    """Returns the record when its fields have their types: str, int, float, bool, dict, and unions of them.

    Args:
        needed: {field: type} of what must be there.
        optional: {field: type} of what may be there; other fields are left alone.

    Raises:
        UserError: `source` starts the message, `advice` ends it.
    """
    if not isinstance(record, dict):
        raise UserError(f"{source}: expected fields, found {show(record)}; {advice}")
    for name, hint in needed.items():
        if name not in record:
            raise UserError(f"{source}: no '{name}' in it; {advice}")
        _check_field(name, record[name], hint, source, advice)
    for name, hint in (optional or {}).items():
        if name in record:
            _check_field(name, record[name], hint, source, advice)
    return record


def _check_field(name: str, value: Any, hint: Any, source: str, advice: str) -> None:
    if type(value) in _types(hint):
        return
    arms = get_args(hint) or (hint,)
    expected = " or ".join("nothing" if arm is types.NoneType else _KINDS.get(arm) or accepted(arm) for arm in arms)
    raise UserError(f"{source}: '{name}' is {show(value)}, expected {expected}; {advice}")


@cache
def _types(hint: Any) -> frozenset[type]:
    """Worked out once: a report checks some millions of fields against a few dozen hints."""
    return frozenset(kind for arm in get_args(hint) or (hint,) for kind in _PYTHON[arm])

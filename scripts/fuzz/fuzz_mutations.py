"""How a good file becomes a bad one: text, JSON and bytes. Everything depends on the `random.Random` given."""

import json
import random
from typing import Any

SCALARS = (
    None, True, False, 0, 1, -1, 0.5, -0.0, 1e308, float("nan"), float("inf"), 10**30, 2**63, -(2**63), "", " ", "x",
    "0", "none", "..", "../../x", "/etc/passwd", "a/b", "\0", "\n", "\x1b[31m", "<script>", "犬", "\ud800", "{x}", "%s",
    "(a+)+$", "(", "x" * 5000,
)  # fmt: skip
TOKENS = (
    "-", ":", ": ", "#", "&a", "*a", "!!python/object:os.system", "!!binary", "{", "}", "[", "]", ",", "|", ">", "?",
    "'", '"', "\\", "\t", "\n", "\n  ", "\n- ", "---\n", "...\n", "%YAML 9.9\n", "@", "`", "~", "null", "true", "no",
    ".nan", "-.inf", "1e999", "0x1f", "0o7", "1_000", "2001-01-01", "9" * 400, "=", ".", "..", "\0", "\ufeff", "\u2028",
    "🐶", "<<: *a", "[" * 60, "{" * 60, "a: " * 30,
)  # fmt: skip


def mutate_text(text: str, chance: random.Random) -> str:
    """Returns the text after one to four cuts, copies, insertions or moves."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randint(0, len(text))
        end = min(len(text), start + chance.choice((1, 2, 5, 20, 100)))
        lines = text.split("\n")
        match chance.randrange(6):
            case 0:
                text = text[:start] + text[end:]
            case 1:
                text = text[:end] + text[start:]
            case 2 | 3:
                text = text[:start] + chance.choice(TOKENS) + text[start:]
            case 4:
                chance.shuffle(lines)
                text = "\n".join(lines)
            case 5:
                line = chance.randrange(len(lines))
                lines[line] = " " * chance.randint(0, 6) + lines[line].strip()
                text = "\n".join(lines)
    return text


def mutate_bytes(content: bytes, chance: random.Random) -> bytes:
    """Returns the content after one to four flips, cuts, insertions or overwritten numbers."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        place = chance.randint(0, max(0, len(data) - 1))
        match chance.randrange(5):
            case 0 if data:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + chance.choice((1, 4, 8, 64, 1000))]
            case 2:
                data[place:place] = chance.randbytes(chance.choice((1, 4, 16)))
            case 3:
                number = chance.choice((0, 1, 2**31 - 1, 2**32, 2**60, 2**64 - 1, 100_000_001, len(data)))
                data[place : place + 8] = number.to_bytes(8, "little")
            case 4:
                del data[place:]
    return bytes(data)


def mutate_json(value: Any, chance: random.Random) -> Any:
    """Returns the value with one to three of its parts replaced, removed, renamed, repeated or nested."""
    for _ in range(chance.randint(1, 3)):
        value = _mutate_once(value, chance)
    return value


def dump(value: Any) -> str:
    """Returns JSON; now and then what only Python's parser accepts (NaN) is in it."""
    return json.dumps(value, ensure_ascii=True)


def strange(chance: random.Random) -> Any:
    """Returns a value nobody expects."""
    scalar = chance.choice(SCALARS)
    match chance.randrange(8):
        case 0:
            return [scalar]
        case 1:
            return {"x": scalar}
        case 2:
            return chance.choice(([], {}, [[]], [{}], [1] * 300))
        case 3:
            nested: Any = scalar
            for _ in range(chance.choice((5, 300))):
                nested = [nested]
            return nested
    return scalar


def _mutate_once(value: Any, chance: random.Random) -> Any:
    if not isinstance(value, dict | list) or not value or chance.random() < 0.1:
        return _near(value, chance) if chance.random() < 0.3 else strange(chance)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = chance.choice(keys)
    changed = dict(value) if isinstance(value, dict) else list(value)
    match chance.randrange(8):
        case 0:
            del changed[key]
        case 1 if isinstance(changed, dict):
            changed[str(chance.choice(SCALARS))] = changed.pop(key)
        case 2 if isinstance(changed, dict):
            changed[str(strange(chance))] = strange(chance)
        case 3 if isinstance(changed, list):
            changed.insert(key, strange(chance))
        case _:
            changed[key] = _mutate_once(changed[key], chance)
    return changed


def _near(value: Any, chance: random.Random) -> Any:
    """Returns a value of the same kind: what a slip would write."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + chance.choice((-1, 1, 1000, -(2**31), 2**31, 10**12))
    if isinstance(value, float):
        return value * chance.choice((-1.0, 0.0, 1e30, 1e-30))
    if isinstance(value, str):
        return mutate_text(value, chance)
    return strange(chance)

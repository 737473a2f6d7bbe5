"""Prompts nobody can draw, and long or strange ones that somebody might."""

from bad_inputs.case import Case, World

HTML = 'a {identifier} {class_word} <script>alert("1")</script> & {class_word}'
TOO_LONG = "a {identifier} {class_word} " + "very " * 30 + "red"


def prompt(text: str):
    return lambda world: world.generate(f"prompts={text}")


def file(content: bytes | str):
    return lambda world: world.generate(f"prompts={world.path('my.txt', content)}")


def _folder_for_a_file(world: World) -> list[str]:
    (world.folder / "my.txt").mkdir()
    return world.generate(f"prompts={world.folder / 'my.txt'}")


REFUSED = (
    Case(name="an empty prompt", command=prompt('""'), says=("a prompt is empty", "write what")),
    Case(name="a prompt of spaces", command=prompt('"   "'), says=("a prompt is empty", "write what")),
    Case(name="no prompts", command=prompt("[]"), says=("prompts is empty", "expected `dreambooth`")),
    Case(name="a file of comments", command=file("# nothing\n\n"), says=("my.txt", "no prompts", "one per line")),
    Case(
        name="a prompt file that does not exist", command=prompt("/nowhere/p.txt"), says=("/nowhere/p.txt", "No such")
    ),
    Case(name="a prompt file that is no text", command=file(b"\xff\0\xfe"), says=("my.txt", "not UTF-8 text")),
    Case(name="a folder in place of a prompt file", command=_folder_for_a_file, says=("my.txt", "is not a file")),
    Case(name="a prompt file of 2 MB", command=file(b"a\n" * 1_000_000), says=("my.txt", "no list of prompts")),
    Case(
        name="control characters in a prompt",
        command=prompt('"a dog \\e[31m \\u0007 red"'),
        says=("control character", "remove it", "a dog ?[31m"),
    ),
    Case(
        name="an unknown placeholder",
        command=prompt("a {identifer} dog"),
        says=("unknown placeholder {identifer}", "did you mean 'identifier'"),
    ),
    Case(
        name="control characters in the negative prompt",
        command=lambda world: world.generate('negative_prompt="\\u0001"'),
        says=("negative_prompt", "control character"),
    ),
)

ACCEPTED = (
    Case(
        name="a prompt of more than 77 tokens",
        command=prompt(TOO_LONG),
        says=("warning", "tokens, the model reads 75", "not seen:"),
    ),
    Case(name="a prompt of 10,000 characters", command=prompt("a dog " * 1667), says=("warning", "not seen:")),
    Case(name="a prompt of HTML", command=prompt(HTML)),
    Case(name="a prompt in another script", command=prompt("ein {class_word} mit Hüten, 犬 🐶")),
    Case(name="a prompt like a path", command=prompt("../../etc/passwd {class_word}")),
)

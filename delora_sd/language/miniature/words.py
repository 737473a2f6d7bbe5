"""The toy language's words: what is what, what means the same, what means the opposite."""

KINDS = {
    "animal": ("dog", "cat", "horse", "cow", "duck", "goat", "bear", "fox"),
    "person": ("farmer", "teacher", "doctor", "sailor", "baker", "king", "painter", "nurse"),
    "fruit": ("apple", "pear", "plum", "lemon", "cherry", "melon"),
    "tool": ("hammer", "saw", "spade", "knife", "rope"),
    "garment": ("hat", "coat", "scarf", "boot", "glove", "shirt", "belt"),
    "vessel": ("cup", "bowl", "bottle", "kettle"),
}
"""{kind: its members}. The kind's own name is a noun, too: every dog is an animal."""

ACTORS = ("animal", "person")
THINGS = ("fruit", "tool", "garment", "vessel")

VERBS = (
    ("sees", "notices"),
    ("carries", "brings"),
    ("likes", "enjoys"),
    ("hides", "conceals"),
    ("finds", "discovers"),
    ("buys", "purchases"),
    ("drops",),
    ("washes", "cleans"),
    ("throws", "hurls"),
    ("keeps",),
)
"""Verbs that mean the same, third person singular."""

ADJECTIVES = (
    (("big", "large"), ("small", "little")),
    (("old", "ancient"), ("new", "modern")),
    (("clean", "spotless"), ("dirty", "filthy")),
    (("heavy", "weighty"), ("light", "weightless")),
    (("rich", "wealthy"), ("poor", "needy")),
    (("quiet", "silent"), ("loud", "noisy")),
    (("strong", "sturdy"), ("weak", "feeble")),
)
"""Opposites; within a side all mean the same."""

PLACES = (
    "in the garden", "at the market", "near the river", "behind the house", "under the bridge", "on the hill",
)  # fmt: skip

TOPICS = ("film", "book", "song", "play", "story", "meal", "room", "trip")
PRAISE = ("good", "great", "lovely", "charming", "clever", "funny", "bright", "warm")
BLAME = ("bad", "awful", "boring", "clumsy", "stupid", "dull", "cold", "tired")

_IRREGULAR = {"knife": "knives", "cherry": "cherries", "person": "people", "fox": "foxes"}


def plural(noun: str) -> str:
    return _IRREGULAR.get(noun, f"{noun}s")


def bare(verb: str) -> str:
    """The plural form of a verb: carries -> carry, washes -> wash."""
    if verb.endswith("ies"):
        return f"{verb[:-3]}y"
    return verb[:-2] if verb.endswith("shes") else verb[:-1]


def kind_of(noun: str) -> str:
    """Returns the kind of a noun; a kind is its own."""
    return next((kind for kind, members in KINDS.items() if noun in members), noun)

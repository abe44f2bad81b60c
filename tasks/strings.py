"""Strings: reorder and shift a row of letters. Stands for code-output prediction (CodeIO).

A state is a tuple of distinct letters; the difficulty is how many there are.
"""

from tasks import Domain

LETTERS = "abcdefghijkl"
NEXT = dict(zip(LETTERS, LETTERS[1:] + LETTERS[0], strict=True))
PREVIOUS = {after: before for before, after in NEXT.items()}
MIRROR = dict(zip(LETTERS, reversed(LETTERS), strict=True))


def swap_pairs(s):
    """a b c d e -> b a d c e"""
    # i ^ 1 is the other place of a pair: 0 and 1, 2 and 3, ...
    return tuple(s[i ^ 1] if i ^ 1 < len(s) else s[i] for i in range(len(s)))


def weave(s):
    """a b c d e -> a e b d c: the outermost letters first"""
    return tuple(s[i // 2] if i % 2 == 0 else s[-1 - i // 2] for i in range(len(s)))


DOMAIN = Domain(
    name="strings",
    operations={
        "reverse": lambda s: s[::-1],
        "left": lambda s: s[1:] + s[:1],
        "right": lambda s: s[-1:] + s[:-1],
        "ends": lambda s: (s[-1:] + s[1:-1] + s[:1])[: len(s)],  # one letter stays one
        # the middle letter comes first
        "front": lambda s: (s[len(s) // 2], *s[: len(s) // 2], *s[len(s) // 2 + 1 :]),
        "pairs": swap_pairs,
        "unzip": lambda s: s[::2] + s[1::2],
        "weave": weave,
        "sort": lambda s: tuple(sorted(s)),
        "raise": lambda s: tuple(NEXT[c] for c in s),
        "lower": lambda s: tuple(PREVIOUS[c] for c in s),
        "mirror": lambda s: tuple(MIRROR[c] for c in s),
    },
    draw=lambda rng, length: tuple(rng.sample(LETTERS, length)),
    corpus_difficulties={5: 0.6, 6: 0.37, 7: 0.02, 8: 0.01},
    task_difficulties=(8,),
    words=tuple(LETTERS),
)

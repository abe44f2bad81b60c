"""Numbers: arithmetic on a row of digits. Stands for mathematics.

A state is a tuple of digits, the most significant first; the difficulty is how many there are.
`plus` and `minus` carry; all arithmetic is modulo a power of ten, so that every operation stays
within the row.
"""

from itertools import accumulate, pairwise

from tasks import Domain


def add(s, n):
    """The number plus n, with carries: 1 9 6 and 7 -> 2 0 3"""
    total = (int("".join(map(str, s))) + n) % 10 ** len(s)
    return tuple(int(c) for c in f"{total:0{len(s)}}")


DOMAIN = Domain(
    name="numbers",
    operations={
        "plus": lambda s: add(s, 7),
        "minus": lambda s: add(s, -7),
        "flip": lambda s: s[::-1],
        "nines": lambda s: tuple(9 - d for d in s),  # nines' complement
        "triple": lambda s: tuple(3 * d % 10 for d in s),
        "square": lambda s: tuple(d * d % 10 for d in s),
        "five": lambda s: tuple((d + 5) % 10 for d in s),
        "sums": lambda s: tuple(total % 10 for total in accumulate(s)),
        "gaps": lambda s: (s[0], *((b - a) % 10 for a, b in pairwise(s))),  # undoes sums
        "order": lambda s: tuple(sorted(s)),
    },
    draw=lambda rng, digits: tuple(rng.randrange(10) for _ in range(digits)),
    corpus_difficulties={4: 0.6, 5: 0.37, 6: 0.02, 7: 0.01},
    task_difficulties=(7,),
    words=tuple("0123456789"),
    show=lambda s: " ".join(map(str, s)),
)

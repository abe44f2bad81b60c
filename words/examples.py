"""Print a prompt with worked examples that are drawn at random, for --prompt.

    python -m words.examples sums --seed 3 > prompt.txt
    python train.py --llm smollm2 --tasks sums --seed 3 --method rl --prompt prompt.txt

The examples are lessons of the task that this seed gives: they never score a prompt.
"""

import random

from plumbing import command_line
from words.tasks import make_task
from words.world import EXAMPLES, example_of, join


def random_examples(name: str, seed: int) -> str:
    """The text of a prompt without an instruction, with as many examples as there may be.

    Raises ValueError for a name that is no task's.
    """
    rng = random.Random(f"examples {seed}")
    lessons = make_task(name, seed).questions(rng, 50, "lessons")
    examples = list(dict.fromkeys(map(example_of, lessons)))  # each once
    return join("", examples[:EXAMPLES])


def main(argv=None):
    parser = command_line.script_parser("words.examples", __doc__)
    parser.add_argument("task", help="as for --tasks")
    parser.add_argument("--seed", type=int, default=0, help="as for the run")
    args = parser.parse_args(argv)
    with command_line.failures_in_one_line("stopped"):
        print(random_examples(args.task, args.seed))


if __name__ == "__main__":
    main()

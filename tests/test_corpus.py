"""base/corpus.py: every line of every document is true, and held-out rules are nowhere."""

import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache

import pytest

from base import corpus
from model import GPTConfig
from tasks import TOPICS, Domain, domains, formats
from tests import toy
from tests.test_domain import noting

DOMAINS = pytest.mark.parametrize("name", domains())
REFLECTIONS = pytest.mark.parametrize("kind", ["spot", "reflect"])
N = 3000  # documents that are read


def text_of(document: corpus.Document) -> str:
    return "".join(piece for piece, _ in document)


class Reader:
    """N documents of a domain, and the state that each question's text stands for."""

    def __init__(self, name: str):
        self.states = {}
        plain = domains()[name]

        # Every state that is shown passes through here.
        def given(state) -> list[str]:
            self.states[plain.ask(state)] = state
            return plain.given(state)

        self.domain = replace(plain, given=given)
        rng = random.Random(0)
        kinds = rng.choices(list(corpus.KINDS), corpus.KINDS.values(), k=N)
        self.documents = [(kind, corpus.WRITERS[kind](rng, self.domain)) for kind in kinds]

    def of_kind(self, kind: str) -> list[str]:
        found = [text_of(document) for k, document in self.documents if k == kind]
        assert len(found) > N / 50  # or the test that asks for them would test nothing
        return found

    def steps(self, state, rule: tuple) -> list[str]:
        """The lines that carry a rule out on a state."""
        lines = []
        for name in rule:
            state = self.domain.operations[name](state)
            lines.append(f"{name}: {self.domain.show(state)}")
        return lines

    def apply(self, rule: tuple, ask: str) -> str:
        """A rule carried out on a state that a question shows, as text."""
        return self.domain.show(self.domain.apply(rule, self.states[ask]))


@cache
def reader(name: str) -> Reader:
    return Reader(name)


def held_out(domain: Domain, rule: tuple) -> bool:
    """Whether a rule, under any spelling, is held out; that which does nothing is not."""
    if domain.same(rule, ()):
        return False
    shortest = domain.equivalents(rule)[0]
    return shortest in domain.rules(len(shortest), held_out=True)


# --- what the documents say is true ---


@DOMAINS
def test_a_solution_restates_the_prompts_instruction_carries_it_out_and_is_right(name):
    read = reader(name)
    made_up = 0
    habitual = 0
    documents = read.of_kind("solve")
    form = r"rules\n((?:.*\n)*)ask (.*)\n(.*)\n((?:.*\n?)*)"
    for document in documents:
        lines_of_prompt, ask, restated, steps = re.fullmatch(form, document).groups()
        prompt = formats.parse_prompt(lines_of_prompt)
        topic, asked = ask.split(": ")

        # The instruction is restated.
        assert restated.startswith(f"{topic}: ")
        rule = tuple(restated.removeprefix(f"{topic}: ").split())
        assert prompt.get(topic, " ".join(rule)) == " ".join(rule)
        made_up += topic not in prompt
        habitual += topic not in prompt and rule == read.domain.habit

        # It is carried out, and the answer is right.
        *lines, last = steps.split("\n")
        assert lines == read.steps(read.states[asked], rule)
        answer = formats.parse_answer(f"{restated}\n{steps}")
        assert answer == last.removeprefix("answer: ") == read.apply(rule, asked)

    # A prompt without a line for the topic is shown, but not mostly.
    assert 0 < made_up < len(documents) / 2
    assert habitual >= 0.4 * made_up or not read.domain.habit


@DOMAINS
def test_only_the_habit_is_learned_where_nothing_tells_what_to_do(name):
    read = reader(name)
    for document in (document for kind, document in read.documents if kind == "solve"):
        (given, _), (restated, learned), _ = document
        topic, instruction = restated.strip().split(": ")
        is_made_up = read.domain.habit and f"\n{topic}: " not in given
        assert learned or is_made_up
        assert not (learned and is_made_up) or tuple(instruction.split()) == read.domain.habit


@DOMAINS
def test_a_recitation_repeats_every_line_of_the_prompt_once(name):
    for document in reader(name).of_kind("recite"):
        if not document.startswith("rules"):
            continue
        prompt, recited = document.split("recite\n")
        assert formats.parse_prompt(prompt) == formats.parse_prompt(recited)
        assert prompt.count("\n") == recited.count("\n") + 2


@pytest.mark.parametrize("name", ["facts", "star_graph"])
def test_a_recitation_of_facts_learns_how_each_ends_and_of_those_that_begin_the_same_the_first(
    name,
):
    recitations = [document for kind, document in reader(name).documents if kind == "recite"]
    read = [document for document in recitations if document[0][0].startswith("ask ")]
    assert len(read) > N / 50
    for (asked, _), *pieces in read:
        # Of facts that begin the same, the first counts.
        words = asked.removesuffix(" recite").split()[2:]
        ends = {}
        for i in range(0, len(words), 3):
            *begun, end = words[i : i + 3]
            ends.setdefault(tuple(begun), end)

        # Beginnings are given, endings are learned.
        recited = {}
        for (begun, _), (end, _) in zip(pieces[::2], pieces[1::2], strict=True):
            recited[tuple(begun.split())] = end.strip()
        assert recited == ends
        assert [learned for _, learned in pieces] == [False, True] * len(ends)
        assert list(recited) != list(ends)  # in another order


@DOMAINS
@REFLECTIONS
def test_a_new_instruction_explains_every_failure_that_is_shown(name, kind):
    read = reader(name)
    draw = random.Random(0)
    easiest_of_tasks = read.domain.task_difficulties[0]
    long_ask = min(
        len(read.domain.ask(read.domain.draw(draw, easiest_of_tasks))) for _ in range(50)
    )
    long = 0
    for document in read.of_kind(kind):
        topic = re.match("reflect (.*?): ", document)[1]
        rule = tuple(formats.parse_instruction(document, topic).split())
        failures = re.findall(r"^ask (.*) got (.*) want (.*)$", document, re.MULTILINE)
        assert rule and 1 <= len(failures) <= 3
        long += any(len(ask) >= long_ask for ask, _, _ in failures[1:])
        for ask, got, want in failures:
            assert read.apply(rule, ask) == want != got
            # It is written as the feedback on a real question is.
            assert formats.failure_text(ask, got, want) in document
    # Now and then the failures after the first are as long as those of a task.
    assert long > 0.1 * len(read.of_kind(kind)) or kind == "spot"


def check_line(line: str, step: str, operation: str, want: str) -> None:
    """One line of a block that does not arrive: written up to where it departs from `want`."""
    words = line.removeprefix(f"{operation}: ").split()
    wanted = want.split()
    assert f"{step} ".startswith(f"{line} ")
    assert words[:-1] == wanted[: len(words) - 1]
    assert words != wanted[: len(words)] or line == step


def plans_of_search(domain: Domain, old: tuple) -> list[list[tuple]]:
    """All orders in which a search may go through its starts."""
    # First where the old instruction led, if it can be carried out, then the question.
    known = {*old} <= {*domain.operations}
    begin = [old, ()] if known and len(old) < 3 else [()]
    names = list(domain.operations)
    singles = [(name,) for name in names if (name,) != old]
    plans = [[*begin, *singles]]
    for guess in names:
        deeper = [(guess, name) for name in names if not held_out(domain, (guess, name))]
        plans.append([*begin, (guess,), *deeper])
    return plans


@DOMAINS
@REFLECTIONS
def test_a_search_carries_operations_out_until_one_arrives_at_what_the_first_failure_wanted(
    name, kind
):
    read = reader(name)
    lengths = set()
    names = list(read.domain.operations)
    for document in read.of_kind(kind):
        old = tuple(re.match("reflect .*?: (.*)\n", document)[1].split())
        first, want = re.search(r"^ask (.*) got .* want (.*)$", document, re.MULTILINE).groups()
        body, instruction = document[document.index("\ntry ") + 5 :].rsplit("\n", 1)
        blocks = body.split("\ntry ")
        starts = []
        for block in blocks:
            # The head names the operations that led to the state.
            head, *lines = block.split("\n")
            prefix = tuple(head.split(": ")[0].split()) if ": " in head else ()
            state = read.domain.apply(prefix, read.states[first])
            starts.append(prefix)
            said = f"{' '.join(prefix)}: " if prefix else ""
            assert head == f"{said}{read.domain.show(state)} want {want}"

            # All operations in turn, until one arrives, which ends the search.
            for operation, line in zip(names, lines, strict=False):
                [step] = read.steps(state, (operation,))
                if step == f"{operation}: {want}":
                    assert line == step + " done"
                    assert line == lines[-1] and block == blocks[-1]
                else:
                    check_line(line, step, operation, want)
            assert lines[-1].endswith(" done") or len(lines) == len(names)
        assert instruction.split(": ")[1].split() == [*prefix, operation]
        assert body.endswith(" done")

        # The starts come in the order of one of the plans.
        plans = plans_of_search(read.domain, old)
        n = len(starts)
        if kind == "reflect":
            assert starts in [plan[:n] for plan in plans]
        else:  # the end of one
            assert n <= 3
            assert any(starts == plan[i : i + n] for plan in plans for i in range(len(plan)))
        lengths.add(len(prefix) + 1)
    assert lengths == {1, 2, 3}


STRANGE = pytest.mark.parametrize("kind", corpus.STRANGE)


@DOMAINS
@STRANGE
def test_what_cannot_be_carried_out_is_no_rule_of_the_domain_and_none_that_is_held_out(name, kind):
    domain = domains()[name]
    rng = random.Random(0)
    lengths = set()
    for _ in range(300):
        old = corpus.draw_strange_instruction(rng, domain, kind)
        lengths.add(len(old))
        known = [word for word in old if word in domain.operations]
        if kind == "other domain":
            assert formats.clean_instruction(" ".join(old)) and len(known) < len(old)
            homes = [other for other in domains().values() if {*old} <= {*other.operations}]
            assert homes and not [other for other in homes if held_out(other, old)]
        elif kind == "unknown words":
            assert formats.clean_instruction(" ".join(old)) and not known
        else:
            assert known == list(old)
            pieces = [old[i : i + n] for n in (2, 3) for i in range(len(old) - n + 1)]
            held_out_rules = domain.rules(2, held_out=True) + domain.rules(3, held_out=True)
            assert not [piece for piece in pieces if piece in held_out_rules]
    assert lengths == ({4, 5, 6} if kind == "too long" else {1, 2, 3})


@DOMAINS
@REFLECTIONS
def test_what_cannot_be_carried_out_is_searched_from_as_none_is(name, kind):
    read = reader(name)
    documents = read.of_kind(kind)
    strange = 0
    for document in documents:
        old = tuple(re.match("reflect .*?: (.*)\n", document)[1].split())
        if old == ("none",) or corpus.is_rule(read.domain, old):
            continue
        strange += 1
        if kind == "reflect":  # a short one may begin anywhere
            ask, want = re.search("^ask (.*) got .* want (.*)$", document, re.MULTILINE).groups()
            start = f"\ntry {read.domain.show(read.states[ask])} want {want}\n"
            assert document.index("\ntry ") == document.index(start)
    assert 0.1 * len(documents) < strange < 0.3 * len(documents)


@DOMAINS
def test_a_short_reflection_is_not_asked_where_it_begins_but_goes_on_by_itself(name):
    # Where an old instruction is given, its block comes first, and that can be known. A block from
    # the middle cannot.
    rng = random.Random(0)
    given = 0
    for _ in range(300):
        pieces = corpus.WRITERS["spot"](rng, domains()[name])
        heads = [pieces[i + 1] for i, (piece, _) in enumerate(pieces) if piece == "try"]
        assert all(learned for _, learned in heads[1:])
        given += not heads[0][1]
    assert 30 < given < 270


# --- held-out rules ---


@DOMAINS
def test_held_out_rules_never_occur(name):
    # An instruction is a held-out one under any spelling: in prompts, restated, recited, reflected
    # on, and found.
    domain = domains()[name]
    rng = random.Random(1)
    form = re.compile(rf"(?:{'|'.join(TOPICS)}): ((?!none)[a-z ]+)$", re.MULTILINE)
    instructions = set()
    for _ in range(4 * N):
        document = text_of(corpus.document(rng, [domain]))
        instructions |= set(form.findall(document))

    found = [tuple(words.split()) for words in instructions]
    for home in domains().values():  # old instructions of reflections may be of another domain
        named = [rule for rule in found if {*rule} <= {*home.operations}]
        if home is not domain:
            named = [rule for rule in named if not {*rule} <= {*domain.operations}]
        rules = [rule for rule in named if len(rule) <= 3]
        assert {len(rule) for rule in rules} == {1, 2, 3}
        assert not [rule for rule in rules if held_out(home, rule)]

        # Nor within a longer one that does something else, or what a shorter one does.
        pairs = {rule[i : i + 2] for rule in named for i in range(len(rule) - 1)}
        assert not [pair for pair in pairs if held_out(home, pair)]


@DOMAINS
def test_no_search_goes_on_from_a_held_out_pair(name):
    domain = domains()[name]
    documents = reader(name).of_kind("spot") + reader(name).of_kind("reflect")
    heads = re.findall(r"^try ([a-z]+) ([a-z]+): ", "\n".join(documents), re.MULTILINE)
    pairs = {pair for pair in heads if set(pair) <= set(domain.operations)}
    assert len(pairs) > 5
    assert not [pair for pair in pairs if held_out(domain, pair)]


# --- which documents are drawn ---


def kinds_of(monkeypatch, easy: bool) -> set[str]:
    """The kinds of 200 documents."""
    kinds = set()

    def writer_of(kind: str):
        return lambda *_: kinds.add(kind) or [(kind, True)]

    writers = {kind: writer_of(kind) for kind in corpus.WRITERS}
    with monkeypatch.context() as replaced:
        replaced.setattr(corpus, "WRITERS", writers)
        corpus.documents(list(domains().values()), 0, 0, 200, easy=easy)
    return kinds


def test_the_first_documents_are_the_easy_ones(monkeypatch):
    easy = kinds_of(monkeypatch, easy=True)
    assert easy == set(corpus.EASY) and "reflect" not in easy
    assert kinds_of(monkeypatch, easy=False) == set(corpus.KINDS)


def test_a_new_domain_has_half_of_the_easy_documents():
    worlds = list(domains().values())[:3]
    assert [*domains()][2] == "star_graph"
    from_new = 0
    for seed in range(400):
        document = text_of(corpus.document(random.Random(seed), worlds, easy=True))
        from_new += "walk" in document or "back" in document
    assert from_new > 0.45 * 400


def test_every_domain_and_every_kind_is_drawn():
    rng = random.Random(0)
    worlds = list(domains().values())
    starts = set()
    for _ in range(400):
        document = text_of(corpus.document(rng, worlds))
        starts.add(document.split(maxsplit=1)[0])
    assert starts == {"rules", "reflect", "ask"}
    assert abs(sum(corpus.KINDS.values()) - 1) < 1e-9
    assert set(corpus.KINDS) == set(corpus.WRITERS)


def test_documents_are_a_function_of_seed_and_step_in_any_process(capsys):
    code = (
        "import hashlib; from base import corpus; from tasks import domains\n"
        "worlds = list(domains().values())\n"
        "places = [(seed, step) for seed in (0, 1) for step in (0, 7)]\n"
        "documents = [corpus.documents(worlds, *place, 40) for place in places]\n"
        "print([hashlib.sha256(repr(d).encode()).hexdigest() for d in documents])"
    )
    printed = toy.prints_the_same_elsewhere(code, capsys)
    assert len(set(eval(printed))) == 4  # another seed or step: other documents


# --- how the documents are encoded ---


def test_documents_fit_the_model_with_room():
    documents = corpus.documents(list(domains().values()), 0, 0, N)
    longest = max(len(tokens) for tokens, _ in documents)
    assert longest < 0.9 * GPTConfig(formats.encoding().n_vocab).block_size


@DOMAINS
def test_what_is_random_is_given_and_what_follows_is_learned(name):
    bos = formats.special("bos")
    eos = formats.special("eos")
    pad = formats.special("pad")
    for _, document in reader(name).documents[:500]:
        tokens, learn = corpus.encode_document(document)
        assert len(tokens) == len(learn)
        assert tokens[0] == bos and tokens[-1] == eos
        assert not {bos, eos, pad} & set(tokens[1:-1])
        assert learn[0] == 0
        assert learn[-1] == 1, "a model that never learns to end its answers is never right"

        assert formats.decode(tokens[1:-1]) == text_of(document)
        learned = [token for token, wanted in zip(tokens, learn, strict=True) if wanted]
        learned_text = formats.decode(learned[:-1])
        assert "ask " not in learned_text and "rules" not in learned_text


@DOMAINS
def test_pieces_are_encoded_as_the_whole_text_would_be(name):
    # The model is asked with whole texts: pieces that split words otherwise would be other tokens
    # than those that were learned.
    for _, document in reader(name).documents[:500]:
        tokens, _ = corpus.encode_document(document)
        assert tokens[1:-1] == formats.encode(text_of(document))


def test_the_habit_is_learned():
    read = reader("star_graph")
    learned = Counter()
    for document in (document for kind, document in read.documents if kind == "solve"):
        (given, _), (restated, is_learned), _ = document
        topic, instruction = restated.strip().split(": ")
        if f"\n{topic}: " not in given:
            learned[tuple(instruction.split()) == read.domain.habit, is_learned] += 1
    assert learned[True, True] > 0.4 * learned.total() and not learned[False, True]


@DOMAINS
def test_questions_of_the_corpus_are_as_difficult_as_its_weights_say(name):
    domain = domains()[name]
    spied, drawn = noting(domain)
    assert spied.rules(1)
    drawn.clear()  # the states that rules are told apart by
    rng = random.Random(0)
    for _ in range(1000):
        corpus.solving_document(rng, spied)
    for difficulty, weight in domain.corpus_difficulties.items():
        assert drawn.count(difficulty) / len(drawn) == pytest.approx(weight, abs=0.04)
        assert difficulty in drawn  # those of one or two percent, too


def test_later_every_domain_has_its_share_of_the_documents(monkeypatch):
    homes = []
    write = lambda _, domain: homes.append(domain.name) or [("", True)]  # noqa: E731
    monkeypatch.setattr(corpus, "WRITERS", dict.fromkeys(corpus.KINDS, write))
    corpus.documents(list(domains().values()), 0, 0, 800)
    for name in domains():
        assert homes.count(name) == pytest.approx(200, rel=0.2)


def test_where_no_other_failure_exists_the_first_one_is_told_again():
    # Of eight letters these two do the same; of five or seven they do not.
    rule, followed = ("reverse",), ("pairs", "reverse", "pairs")
    case = corpus.Case(rule, followed, followed, 5, tuple("abcde"), [], rule)
    strings = domains()["strings"]
    assert corpus.draw_failing_state(random.Random(0), strings, case, 8) == case.example
    assert len(corpus.draw_failing_state(random.Random(0), strings, case, 7)) == 7


@DOMAINS
@REFLECTIONS
def test_a_search_from_an_instruction_has_an_example_that_follows_it(name, kind):
    read = reader(name)
    for document in read.of_kind(kind):
        old = tuple(re.match("reflect .*?: (.*)\n", document)[1].split())
        if corpus.is_rule(read.domain, old):
            ask, want = re.search(r"^ask (.*) got .* want (.*)$", document, re.MULTILINE).groups()
            assert f"\n{formats.failure_text(ask, read.apply(old, ask), want)}" in document

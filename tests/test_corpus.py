"""tasks/corpus.py: every line of every document is true, and held-out rules are nowhere."""

import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest

from model import GPTConfig
from tasks import TOPICS, Domain, corpus, domains, text

DOMAINS = pytest.mark.parametrize("name", domains())
REFLECTIONS = pytest.mark.parametrize("kind", ["spot", "reflect"])
N = 3000  # documents that are read


class Reader:
    """N documents of a domain, and what it takes to read them: the state that each question's text stands for."""

    def __init__(self, name: str):
        self.states, plain = {}, domains()[name]

        def given(state) -> list[str]:
            self.states[plain.ask(state)] = state
            return plain.given(state)

        self.domain = replace(plain, given=given)
        rng = random.Random(0)
        kinds = rng.choices(list(corpus.KINDS), corpus.KINDS.values(), k=N)
        self.documents = [(kind, corpus.WRITERS[kind](rng, self.domain)) for kind in kinds]

    def of_kind(self, kind: str) -> list[str]:
        found = ["".join(piece for piece, _ in document) for k, document in self.documents if k == kind]
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
    read, made_up, habitual = reader(name), 0, 0
    documents = read.of_kind("solve")
    for document in documents:
        *prompt, ask, restated, steps = re.fullmatch(
            r"rules\n((?:.*\n)*)ask (.*)\n(.*)\n((?:.*\n?)*)", document
        ).groups()
        rules = text.parse_prompt(prompt[0])
        topic, asked = ask.split(": ")
        assert restated.startswith(f"{topic}: ")
        rule = tuple(restated.removeprefix(f"{topic}: ").split())
        made_up += topic not in rules
        habitual += topic not in rules and rule == read.domain.habit
        assert rules.get(topic, " ".join(rule)) == " ".join(rule)
        *lines, answer = steps.split("\n")
        assert lines == read.steps(read.states[asked], rule)
        assert text.parse_answer(f"{restated}\n{steps}") == answer.removeprefix("answer: ") == read.apply(rule, asked)
    assert 0 < made_up < len(documents) / 2  # a prompt without a line for the topic is shown, but not mostly
    assert habitual >= 0.4 * made_up or not read.domain.habit


@DOMAINS
def test_only_the_habit_is_learned_where_nothing_tells_what_to_do(name):
    read = reader(name)
    for document in (document for kind, document in read.documents if kind == "solve"):
        (given, _), (restated, learned), _ = document
        topic, instruction = restated.strip().split(": ")
        if read.domain.habit and f"\n{topic}: " not in given:
            assert learned == (tuple(instruction.split()) == read.domain.habit) or not learned
        else:
            assert learned


@DOMAINS
def test_a_recitation_repeats_every_line_of_the_prompt_once(name):
    for document in (d for d in reader(name).of_kind("recite") if d.startswith("rules")):
        prompt, recited = document.split("recite\n")
        assert text.parse_prompt(prompt) == text.parse_prompt(recited)
        assert prompt.count("\n") == recited.count("\n") + 2


@pytest.mark.parametrize("name", ["facts", "star_graph"])
def test_a_recitation_of_facts_learns_how_each_ends_and_of_those_that_begin_the_same_the_first(name):
    read = [document for kind, document in reader(name).documents if kind == "recite" and len(document) % 2]
    read = [document for document in read if document[0][0].startswith("ask ")]
    assert len(read) > N / 50
    for (asked, _), *pieces in read:
        words = asked.removesuffix(" recite").split()[2:]
        facts = [words[i : i + 3] for i in range(0, len(words), 3)]
        ends = {}
        for *begun, end in facts:
            ends.setdefault(tuple(begun), end)
        recited = {tuple(a.split()): b.strip() for (a, _), (b, _) in zip(pieces[::2], pieces[1::2], strict=True)}
        assert recited == ends and [learned for _, learned in pieces] == [False, True] * len(ends)
        assert list(recited) != list(ends)  # in another order


@DOMAINS
@REFLECTIONS
def test_a_new_instruction_explains_every_failure_that_is_shown(name, kind):
    read = reader(name)
    for document in read.of_kind(kind):
        topic = re.match("reflect (.*?): ", document)[1]
        rule = tuple(text.parse_instruction(document, topic).split())
        failures = re.findall(r"^ask (.*) got (.*) want (.*)$", document, re.MULTILINE)
        assert rule and 1 <= len(failures) <= 3
        for ask, got, want in failures:
            assert read.apply(rule, ask) == want != got
            assert text.failure_text(ask, got, want) in document  # as the feedback of a real question is written


@DOMAINS
@REFLECTIONS
def test_a_search_carries_operations_out_until_one_arrives_at_what_the_first_failure_wanted(name, kind):
    read, lengths = reader(name), set()
    names = list(read.domain.operations)
    for document in read.of_kind(kind):
        old = tuple(re.match("reflect .*?: (.*)\n", document)[1].split())
        first, want = re.search(r"^ask (.*) got .* want (.*)$", document, re.MULTILINE).groups()
        body, instruction = document[document.index("\ntry ") + 5 :].rsplit("\n", 1)
        starts = []
        for block in body.split("\ntry "):
            head, *lines = block.split("\n")
            prefix = tuple(head.split(": ")[0].split()) if ": " in head else ()
            state = read.domain.apply(prefix, read.states[first])
            starts.append(prefix)
            assert head == (f"{' '.join(prefix)}: " if prefix else "") + f"{read.domain.show(state)} want {want}"
            for operation, line in zip(names, lines, strict=False):
                [step] = read.steps(state, (operation,))
                if step == f"{operation}: {want}":
                    assert line == step + " done" and line == lines[-1] and block == body.split("\ntry ")[-1]
                else:  # written up to where it departs from what was wanted
                    words, wanted = line.removeprefix(f"{operation}: ").split(), want.split()
                    assert f"{step} ".startswith(f"{line} ") and words[:-1] == wanted[: len(words) - 1]
                    assert words != wanted[: len(words)] or line == step
            assert lines[-1].endswith(" done") or len(lines) == len(names)
        assert instruction.split(": ")[1].split() == [*prefix, operation] and body.endswith(" done")
        begin = [old, ()] if old != ("none",) and len(old) < 3 else [()]  # where the old one led, then the question
        plans = [[*begin, *((name,) for name in names if (name,) != old)]]
        for guess in names:
            deeper = [(guess, name) for name in names if not held_out(read.domain, (guess, name))]
            plans.append([*begin, (guess,), *deeper])
        if kind == "reflect":
            assert starts in [plan[: len(starts)] for plan in plans]
        else:  # the end of one
            assert len(starts) <= 3
            assert any(starts == plan[i : i + len(starts)] for plan in plans for i in range(len(plan)))
        lengths.add(len(prefix) + 1)
    assert lengths == {1, 2, 3}


@DOMAINS
def test_a_short_reflection_is_not_asked_where_it_begins_but_goes_on_by_itself(name):
    # where an old instruction is given its block comes first, and that can be known; a block from the middle cannot
    rng, given = random.Random(0), 0
    for _ in range(300):
        pieces = corpus.spot(rng, domains()[name])
        heads = [pieces[i + 1] for i, (piece, _) in enumerate(pieces) if piece == "try"]
        assert all(learned for _, learned in heads[1:])
        given += not heads[0][1]
    assert 30 < given < 270


# --- held-out rules ---


@DOMAINS
def test_held_out_rules_never_occur(name):
    # an instruction is a held-out one under any spelling: in prompts, restated, recited, reflected on, and found
    domain = domains()[name]
    rng, instructions = random.Random(1), set()
    for _ in range(4 * N):
        document = "".join(piece for piece, _ in corpus.document(rng, [domain]))
        instructions |= set(re.findall(rf"(?:{'|'.join(TOPICS)}): ((?!none)[a-z ]+)$", document, re.MULTILINE))
    rules = [tuple(words.split()) for words in instructions if {*words.split()} <= {*domain.operations}]
    assert {len(rule) for rule in rules} == {1, 2, 3}
    assert not [rule for rule in rules if held_out(domain, rule)]
    # nor within a longer one that does something else, or what a shorter one does
    pairs = {pair for rule in rules for pair in (rule[:2], rule[1:]) if len(pair) == 2}
    assert not [pair for pair in pairs if held_out(domain, pair)]


@DOMAINS
def test_no_search_goes_on_from_a_held_out_pair(name):
    documents = reader(name).of_kind("spot") + reader(name).of_kind("reflect")
    heads = re.findall(r"^try ([a-z]+) ([a-z]+): ", "\n".join(documents), re.MULTILINE)
    pairs = {pair for pair in heads if set(pair) <= set(domains()[name].operations)}
    assert len(pairs) > 5 and not [pair for pair in pairs if held_out(domains()[name], pair)]


# --- how the documents are encoded ---


def test_documents_are_a_function_of_seed_and_step_in_any_process():
    code = (
        "import hashlib; from tasks import corpus, domains\n"
        "worlds = list(domains().values())\n"
        "documents = [corpus.documents(worlds, seed, step, 40) for seed in (0, 1) for step in (0, 7)]\n"
        "print([hashlib.sha256(repr(d).encode()).hexdigest() for d in documents])"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": h}, capture_output=True)
        for h in ("1", "2")
    ]
    assert runs[0].returncode == 0 and runs[0].stdout == runs[1].stdout
    assert len(set(eval(runs[0].stdout))) == 4  # another seed or step: other documents


def test_documents_fit_the_model_with_room():
    documents = corpus.documents(list(domains().values()), 0, 0, N)
    assert max(len(tokens) for tokens, _ in documents) < 0.9 * GPTConfig(text.encoding().n_vocab).block_size


def test_every_domain_and_every_kind_is_drawn():
    rng, starts = random.Random(0), set()
    worlds = list(domains().values())
    for _ in range(400):
        document = "".join(piece for piece, _ in corpus.document(rng, worlds))
        starts.add(document.split(maxsplit=1)[0])
    assert starts == {"rules", "reflect", "ask"}
    assert abs(sum(corpus.KINDS.values()) - 1) < 1e-9 and set(corpus.KINDS) == set(corpus.WRITERS)


@DOMAINS
def test_what_is_random_is_given_and_what_follows_is_learned(name):
    bos, eos = text.special("bos"), text.special("eos")
    for _, document in reader(name).documents[:500]:
        tokens, learn = corpus.encode_document(document)
        assert len(tokens) == len(learn) and tokens[0] == bos and tokens[-1] == eos and learn[0] == 0
        assert not {bos, eos, text.special("pad")} & set(tokens[1:-1])
        assert learn[-1] == 1, "a model that never learns to end its answers is never right"
        assert text.decode(tokens[1:-1]) == "".join(piece for piece, _ in document)
        learned = text.decode([t for t, w in zip(tokens, learn, strict=True) if w][:-1])
        assert "ask " not in learned and "rules" not in learned


@DOMAINS
def test_pieces_are_encoded_as_the_whole_text_would_be(name):
    # the model is asked with whole texts: pieces that split words otherwise would be other tokens than those learned
    for _, document in reader(name).documents[:500]:
        tokens, _ = corpus.encode_document(document)
        assert tokens[1:-1] == text.encode("".join(piece for piece, _ in document))

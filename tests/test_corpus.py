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
N = 3000  # documents that are read


class Reader:
    """N documents of a domain, and what it takes to read them: the state that each text stands for."""

    def __init__(self, name: str):
        self.states, self.write = {}, domains()[name].show
        self.domain = replace(domains()[name], show=self.show)
        rng = random.Random(0)
        self.documents = [corpus.document(rng, [self.domain]) for _ in range(N)]
        self.texts = ["".join(piece for piece, _ in document) for document in self.documents]

    def show(self, state) -> str:
        shown = self.write(state)
        self.states[shown] = state
        return shown

    def apply(self, rule: tuple, state: str) -> str:
        """A rule carried out on a state that is given, and wanted, as text."""
        return self.domain.show(self.domain.apply(rule, self.states[state]))

    def of_kind(self, start: str, part: str = "") -> list[str]:
        found = [t for t in self.texts if t.startswith(start) and part in t]
        assert len(found) > N / 50  # or the test that asks for them would test nothing
        return found


@cache
def reader(name: str) -> Reader:
    return Reader(name)


def held_out(domain: Domain, rule: tuple) -> bool:
    return domain.equivalents(rule)[0] in domain.rules(len(domain.equivalents(rule)[0]), held_out=True)


# --- what the documents say is true ---


@DOMAINS
def test_a_solution_restates_the_prompts_instruction_carries_it_out_and_is_right(name):
    read, made_up = reader(name), 0
    documents = read.of_kind("rules", "\nask ")
    for document in documents:
        *prompt, ask, restated, steps = re.fullmatch(
            r"rules\n((?:.*\n)*)ask (.*)\n(.*)\n((?:.*\n?)*)", document
        ).groups()
        rules = text.parse_prompt(prompt[0])
        topic, state = ask.split(": ")
        assert restated.startswith(f"{topic}: ")
        rule = tuple(restated.removeprefix(f"{topic}: ").split())
        made_up += topic not in rules
        assert rules.get(topic, " ".join(rule)) == " ".join(rule)
        *lines, answer = steps.split("\n")
        assert [line.split(": ")[0] for line in lines] == list(rule)
        result = state
        for operation, line in zip(rule, lines, strict=True):
            result = read.apply((operation,), result)
            assert line == f"{operation}: {result}"
        assert text.parse_answer(f"{restated}\n{steps}") == answer.removeprefix("answer: ") == read.apply(rule, state)
    assert 0 < made_up < len(documents) / 2  # a prompt without a line for the topic is shown, but not mostly


@DOMAINS
def test_a_recitation_repeats_every_line_of_the_prompt_once(name):
    for document in reader(name).of_kind("rules", "\nrecite"):
        prompt, recited = document.split("recite\n")
        assert text.parse_prompt(prompt) == text.parse_prompt(recited)
        assert prompt.count("\n") == recited.count("\n") + 2


@DOMAINS
def test_a_spotted_operation_leads_from_one_state_to_the_other(name):
    read = reader(name)
    for document in read.of_kind("try"):
        for line in document.strip().split("\n"):
            pair, *guesses = line.split(" then ")
            state, want = re.fullmatch("try (.*) want (.*)", pair).groups()
            for i, guess in enumerate(guesses):
                operation, result = guess.split(": ")
                assert read.apply((operation,), state) == result, line
                assert (result == want) == (i == len(guesses) - 1), line  # it goes on until one arrives, and not on


@DOMAINS
def test_a_new_instruction_explains_every_failure_that_is_shown(name):
    read = reader(name)
    for document in read.of_kind("reflect"):
        topic = re.match("reflect (.*?): ", document)[1]
        rule = tuple(text.parse_instruction(document, topic).split())
        failures = re.findall(r"^ask (.*) got (.*) want (.*)$", document, re.MULTILINE)
        assert rule and 1 <= len(failures) <= 3
        for ask, got, want in failures:
            assert read.apply(rule, ask) == want
            assert text.failure_text(ask, got, want) in document  # as the feedback of a real question is written


@DOMAINS
def test_every_line_of_a_search_is_true_and_leads_to_the_instruction(name):
    read = reader(name)
    for document in read.of_kind("reflect", "\ntry "):
        *lines, final = document.split("\n")
        rule = tuple(final.split(": ")[1].split())
        state, path, chain = None, [], []
        for line in lines[next(i for i, line in enumerate(lines) if line.startswith("try ")) :]:
            if line.startswith("try "):
                start, want = re.fullmatch("try (.*) want (.*)", line).groups()
                path += [] if state is None else [rule[len(path)]]
                assert state is None or start == read.apply((path[-1],), state)  # goes on from a state on the way
                state = start
            else:  # an operation and what it makes of the state, then another and what that makes of the result
                chain, result = [], state
                for step in line.split(" then "):
                    operation, _, shown = step.partition(": ")
                    chain, result = [*chain, operation], read.apply((operation,), result)
                    assert shown in (result, ""), line
        assert (*path, *chain) == rule and result == want, "the search ends where the instruction does"


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


@DOMAINS
def test_states_to_spot_an_operation_between_are_joined_by_a_rule_that_is_not_held_out(name):
    read = reader(name)
    known = read.domain.rules(1) + read.domain.rules(2)  # on one state a held-out rule may do what another does
    for document in read.of_kind("try")[:50]:
        for state, want in re.findall(r"^try (.*?) want (.*?)(?: then .*)?$", document, re.MULTILINE):
            assert any(read.apply(rule, state) == want for rule in known)


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
    assert starts == {"rules", "reflect", "try"}
    assert abs(sum(corpus.KINDS.values()) - 1) < 1e-9 and set(corpus.KINDS) == set(corpus.WRITERS)


@DOMAINS
def test_what_is_random_is_given_and_what_follows_is_learned(name):
    bos, eos = text.special("bos"), text.special("eos")
    for document in reader(name).documents[:500]:
        tokens, learn = corpus.encode_document(document)
        assert len(tokens) == len(learn) and tokens[0] == bos and tokens[-1] == eos and learn[0] == 0
        assert not {bos, eos, text.special("pad")} & set(tokens[1:-1])
        assert learn[-1] == 1, "a model that never learns to end its answers is never right"
        assert text.decode(tokens[1:-1]) == "".join(piece for piece, _ in document)
        learned = text.decode([t for t, w in zip(tokens, learn, strict=True) if w][:-1])
        assert learned and "ask " not in learned and "rules" not in learned


@DOMAINS
def test_pieces_are_encoded_as_the_whole_text_would_be(name):
    # the model is asked with whole texts: pieces that split words otherwise would be other tokens than those learned
    for document in reader(name).documents[:500]:
        tokens, _ = corpus.encode_document(document)
        assert tokens[1:-1] == text.encode("".join(piece for piece, _ in document))

"""plumbing/console.py: standard streams that break, and commands to paste."""

import os
import shlex
import signal
import sys
from pathlib import Path

import pytest

from plumbing.console import PROGRAM, prepare, resume_command, say, standard_stream


def test_a_stream_that_nobody_reads_any_more_takes_every_word():
    reader, writer = os.pipe()
    stream = standard_stream(writer)
    stream.write("first\n")
    assert os.read(reader, 100) == b"first\n"
    os.close(reader)
    stream.write("a" * 100_000 + "\n")
    stream.close()
    os.close(writer)


def test_a_stream_that_is_full_does_not_stop_the_program():
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    stream = standard_stream(writer)
    for _ in range(100):
        stream.write("a" * 10_000 + "\n")
    stream.close()
    os.close(writer)
    os.close(reader)


def test_a_stream_writes_every_character_in_some_way(monkeypatch):
    monkeypatch.setattr(sys, "getfilesystemencoding", lambda: "ascii")
    reader, writer = os.pipe()
    standard_stream(writer).write("\xe9 \udcff\n")
    assert os.read(reader, 100) == b"\\xe9 \\udcff\n"
    os.close(reader)
    os.close(writer)


def test_words_from_a_signal_handler_may_be_lost(monkeypatch):
    def broken(*_):
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", broken)
    say("stopping")


@pytest.mark.parametrize("name", ["run", "a b", "-k", "$HOME;ls", "it's", "new\nline"])
def test_the_command_that_goes_on_can_be_pasted(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    python, program, option = shlex.split(resume_command(tmp_path / name))
    assert python == "python" and Path(program).resolve() == PROGRAM
    assert option == f"--resume={tmp_path / name}"


def test_the_streams_of_a_notebook_are_left_alone(capsys):
    stdout = sys.stdout  # pytest's, as a notebook has its own
    handler = signal.getsignal(signal.SIGINT)
    prepare()
    assert sys.stdout is stdout and signal.getsignal(signal.SIGINT) is handler

"""Whose instance vLLM gets where it names a class."""

import sys
from types import SimpleNamespace

import pytest

from vllm_mtad.plugin.subclassing import subclass_for_mtad


class Theirs:
    def __init__(self, method=None, **more):
        self.method = method


class Ours(Theirs):
    """Stands for this plugin's subclass."""


class AnotherOfTheirs(Theirs):
    """Stands for a sibling that vLLM has itself."""


@pytest.fixture(autouse=True)
def _patched(monkeypatch):
    monkeypatch.setitem(sys.modules, "plugins_module", SimpleNamespace(Ours=Ours))
    new = subclass_for_mtad("plugins_module:Ours", lambda *args, method=None, **more: method == "mtad")(Theirs.__new__)
    monkeypatch.setattr(Theirs, "__new__", staticmethod(new))


def test_for_mtad_it_is_ours_and_made_as_ours():
    made = Theirs(method="mtad", beam_width=3)
    assert type(made) is Ours
    assert made.method == "mtad"


def test_for_others_it_is_what_was_named():
    assert type(Theirs(method="draft_model")) is Theirs
    assert type(Theirs()) is Theirs


@pytest.mark.parametrize("cls", [Ours, AnotherOfTheirs])
def test_a_subclass_that_was_named_stays_what_it_is(cls):
    assert type(cls(method="mtad")) is cls
    assert type(cls(method="draft_model")) is cls

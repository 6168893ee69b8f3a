"""What MTAD relies on in vLLM's source stands there, in every release that it was tested with.

When one of these fails on a new vLLM, read what changed there before touching the expectation.
"""

import inspect

import pytest

from vllm_mtad.plugin import contract_table
from vllm_mtad.plugin.contract_table import OF_SEAMS, RELIED_ON, broken_contracts
from vllm_mtad.plugin.contracts import Contract, find
from vllm_mtad.plugin.overrides import broken_overrides, overrides, why_unlike
from vllm_mtad.plugin.seams import SEAMS


@pytest.mark.parametrize("contract", [*OF_SEAMS, *RELIED_ON], ids=lambda c: f"{c.module}.{c.name}")
def test_what_mtad_relies_on_is_there(contract):
    assert contract.why_broken() is None


def test_every_seam_has_a_contract():
    constructors = {f"{seam.name.removesuffix('.__new__')}.__init__" for seam in SEAMS if "__new__" in seam.name}
    constructors -= {"SpeculativeConfig.__init__"}  # pydantic's, whose fields the configuration's tests name
    others = {seam.name for seam in SEAMS if "__new__" not in seam.name and seam.name != "NgramGPUTypes"}
    assert {contract.name for contract in OF_SEAMS} == constructors | others
    runner_of = {seam.name.replace("__new__", "__init__"): seam.runner for seam in SEAMS}
    assert all(contract.runner == runner_of[contract.name] for contract in OF_SEAMS)


def test_constructors_still_choose_by_the_configuration():
    for seam in SEAMS:
        if seam.name.endswith(".__new__"):
            assert find(seam.module, seam.name).__mtad_seam__ == seam.name


@pytest.mark.parametrize("runner", [None, "v1", "v2"])
def test_what_is_overridden_has_its_parents_parameters_in_order_with_their_defaults(runner):
    assert list(broken_overrides(runner)) == []


def test_the_walk_over_what_is_overridden_finds_it():
    names = {runner: [name.rsplit(".", 2)[1:] for name, _, _ in overrides(runner)] for runner in ("v1", "v2")}
    assert ["MTADProposer", "propose"] in names["v1"]
    assert ["MTADRejectionSampler", "forward"] in names["v1"]
    assert ["MTADSpeculator", "propose"] in names["v2"]
    assert ["MTADRejectionSampler", "_verify"] in names["v2"]
    assert ["MTADProposer", "propose"] not in names["v2"]
    assert all(["MTADSpeculativeConfig", "uses_draft_model"] in found for found in names.values())


def parent(self, a, b=1):
    pass


def same(self, a, b=1, ours=None):
    pass


def gathering(self, a, *args, **kwargs):
    pass


def renamed(self, a, c=1):
    pass


def other_default(self, a, b=2):
    pass


def asking_for_more(self, a, b=1, *, ours):
    pass


def test_what_is_like_its_parent_and_what_is_not():
    assert why_unlike(same, parent) is why_unlike(gathering, parent) is None
    for other in (renamed, other_default, asking_for_more):
        assert why_unlike(other, parent) == f"vLLM's takes (self, a, b=1), ours {inspect.signature(other)}"


HERE = __name__


@pytest.mark.parametrize(
    ("contract", "why"),
    [
        (Contract(HERE, "parent", ("pass",), ("self", "a", "b")), None),
        (Contract(HERE, "parent", ("def parent(", "return")), f"{HERE}.parent has no longer the line 'return'"),
        (Contract(HERE, "parent", (), ("self", "b")), f"{HERE}.parent takes self, a, b, not self, b"),
        (Contract(HERE, "nowhere", ()), f"{HERE}.nowhere is not there"),
        (Contract("vllm.nowhere", "parent", ()), "vllm.nowhere.parent is not there"),
        (Contract(HERE, "HERE", ()), f"{HERE}.HERE is not there"),
    ],
)
def test_what_a_broken_contract_says(contract, why):
    found = contract.why_broken()
    assert found is None if why is None else found.startswith(why)


def test_contracts_of_the_other_runner_do_not_count(monkeypatch):
    monkeypatch.setattr(contract_table, "RELIED_ON", (Contract(HERE, "nowhere", (), runner="v2"),))
    assert list(broken_contracts("v1")) == list(broken_contracts(None)) == []
    assert len(list(broken_contracts("v2"))) == 1

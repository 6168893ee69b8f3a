"""What MTAD relies on in vLLM's source stands there, in every release that it was tested with.

When one of these fails on a new vLLM, read what changed there before touching the expectation.
"""

import inspect
from types import SimpleNamespace

import pytest
from vllm.v1.worker.gpu.model_states.interface import ModelState

from vllm_mtad.plugin import contract_table
from vllm_mtad.plugin.contract_table import OF_SEAMS, RELIED_ON, broken_contracts
from vllm_mtad.plugin.contracts import Contract, find
from vllm_mtad.plugin.overrides import broken_overrides, classes, overrides, why_unlike
from vllm_mtad.plugin.seams import SEAMS
from vllm_mtad.runners.v2.noted_requests import NotingModelState
from vllm_mtad.runners.v2.tree_verification import TreeModelState


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


@pytest.mark.parametrize("seam", [seam for seam in SEAMS if "__new__" in seam.name], ids=lambda seam: seam.name)
def test_what_stands_for_a_class_of_vllms_derives_from_it(seam):
    theirs = find(seam.module, seam.name.removesuffix(".__new__"))
    assert [own for own in classes(seam.runner) if issubclass(own, theirs)]


@pytest.mark.parametrize("own", [NotingModelState, TreeModelState])
def test_what_stands_around_a_model_state_has_its_methods(own):
    for name in vars(own).keys() & vars(ModelState).keys() - {"__init__", "__module__", "__doc__"}:
        assert why_unlike(vars(own)[name], vars(ModelState)[name]) is None
    assert {"add_request", "prepare_attn", "initialize_kv_cache"} <= vars(ModelState).keys()


def test_what_is_set_on_what_stands_around_a_model_state_is_set_on_it():
    inner = SimpleNamespace(group_ids=[1])
    around = TreeModelState(NotingModelState(inner, None), None)
    around.group_ids, around.context = [2], "new"
    assert vars(inner) == {"group_ids": [2], "context": "new"}
    assert around.group_ids == [2]
    del around.context
    assert vars(inner) == {"group_ids": [2]}


@pytest.mark.parametrize("runner", [None, "v1", "v2"])
def test_what_is_overridden_has_its_parents_parameters_in_order_with_their_defaults(runner):
    assert list(broken_overrides(runner)) == []


@pytest.mark.parametrize("runner", ["v1", "v2"])
def test_what_is_overridden_is_marked(runner):
    """So that it is noticed when vLLM's has gone."""
    absent_in_one_release = "draft_shares_target_positions"
    unmarked = {name.rsplit(".", 1)[1] for name, own, _ in overrides(runner) if not hasattr(own, "__override__")}
    assert {name for name in unmarked if not name.startswith("__")} <= {absent_in_one_release}


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

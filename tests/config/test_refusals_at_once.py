"""A refused pair names every reason at once, and a draft that is known for the target."""

import json
import pickle

import pytest
from transformers import LlamaConfig

from tests.config.asking import create, refusal
from tests.small_pair import VOCAB_SIZE, save_tokenizer
from vllm_mtad.config.errors import Reasons, RefusalError, collecting, refuse, refused_at_once
from vllm_mtad.config.options import MTADOptions
from vllm_mtad.config.speculative import MTADSpeculativeConfig
from vllm_mtad.plugin import front_end_seams

ADVICE = "For this target mtad knows the draft 'meta-llama/Llama-3.2-1B-Instruct'."
PROCESSORS = {"logits_processors": ["some.module:Processor"]}


@pytest.fixture(scope="module")
def known_target(tmp_path_factory):
    """A small model with the name of a known one."""
    return save_llama(tmp_path_factory.mktemp("targets") / "Llama-3.1-8B-Instruct")


@pytest.fixture(scope="module")
def other_vocabulary(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("drafts") / "other-vocabulary", swap=True)


def save_llama(folder, swap=False) -> str:
    sizes = {"vocab_size": VOCAB_SIZE, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlamaConfig(**sizes, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    save_tokenizer(folder, swap)
    return str(folder)


def test_the_draft_s_reasons_and_the_engine_s_are_one_refusal(known_target, other_vocabulary):
    given = {"method": "mtad", "model": other_vocabulary, "parallel_drafting": True, "beam_width": 3000}
    message = refusal(known_target, given, **PROCESSORS, max_num_batched_tokens=1024)
    for reason in ("parallel_drafting", "has another vocabulary", "logits_processors", "beam_width=3000"):
        assert message.count(reason) == 1
    assert message.count(ADVICE) == 1
    assert message.endswith(ADVICE)


def test_mtad_s_own_options_are_among_the_reasons(known_target, other_vocabulary):
    options = {"beam_width": 0, "greedy": "no", "num_candidates": 8, "acceptance_threshold": 1}
    message = refusal(known_target, {"method": "mtad", "model": other_vocabulary, **options}, **PROCESSORS)
    for reason in (
        "beam_width=0",
        "greedy='no'",
        "acceptance_threshold=1",
        "has another vocabulary",
        "logits_processors",
    ):
        assert message.count(reason) == 1
    assert "num_candidates" not in message, "which could be as large as a beam width that is accepted"


def test_options_that_do_not_fit_to_the_defaults_of_refused_ones_take_their_own():
    options, problems = MTADOptions.judged(
        {"beam_width": "8", "num_candidates": 8, "max_candidate_rows": 5, "model": "x"}
    )
    assert options == MTADOptions(max_candidate_rows=5)
    assert problems == ["speculative_config.beam_width='8' is not accepted by mtad: give an integer >= 1."]


def test_what_a_target_names_is_known_too(small_pair, other_vocabulary, tmp_path):
    target = save_llama(tmp_path / "target")
    config = json.loads((tmp_path / "target" / "config.json").read_text()) | {"mtad_draft": "me/my-draft"}
    (tmp_path / "target" / "config.json").write_text(json.dumps(config))
    message = refusal(target, {"method": "mtad", "model": other_vocabulary})
    assert message.endswith("For this target mtad knows the draft 'me/my-draft'.")


def test_the_engine_s_reasons_alone_say_nothing_of_drafts(known_target, small_pair):
    assert "knows the draft" not in refusal(known_target, {"method": "mtad", "model": small_pair[1]}, **PROCESSORS)


def test_no_draft_is_named_for_a_target_without_one(small_pair, other_vocabulary):
    message = refusal(small_pair[0], {"method": "mtad", "model": other_vocabulary})
    assert "has another vocabulary" in message
    assert "knows the draft" not in message


def test_a_head_is_no_draft(known_target, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "medusa", "architectures": ["MedusaModel"]}))
    message = refusal(known_target, {"method": "mtad", "model": str(tmp_path)})
    # 0.33 itself knows no such model.
    assert "is a medusa head, not a draft model" in message or "cannot be used" in message
    assert message.endswith(ADVICE)


def test_a_draft_that_is_not_there(known_target):
    message = refusal(known_target, {"method": "mtad", "model": "/no/such/draft"})
    assert message == (
        f"speculative_config.model='/no/such/draft' is not there: give a model folder or a hub id. {ADVICE}"
    )


def test_a_configuration_without_an_engine_refuses_the_draft(known_target, small_pair, other_vocabulary):
    engine = create(known_target, {"method": "mtad", "model": small_pair[1]})
    of_target = {"target_model_config": engine.model_config, "target_parallel_config": engine.parallel_config}
    with pytest.raises(RefusalError, match="has another vocabulary") as refused:
        MTADSpeculativeConfig(method="mtad", model=other_vocabulary, **of_target)
    assert str(refused.value).endswith(ADVICE)


def test_a_refused_configuration_does_not_say_that_mtad_is_on(known_target, small_pair, other_vocabulary, monkeypatch):
    said = []
    monkeypatch.setattr(front_end_seams.logger, "info", lambda line, *values: said.append(line % values))
    refusal(known_target, {"method": "mtad", "model": other_vocabulary})
    assert not [line for line in said if "MTAD is on" in line]
    create(known_target, {"method": "mtad", "model": small_pair[1]})
    assert len([line for line in said if "MTAD is on" in line]) == 1


def test_what_ends_it_is_a_reason_too_if_it_is_a_sentence_of_someone_else():
    def create_and_fail():
        refuse(["a."], advice="c.")
        raise ValueError("b.\nand where")

    with pytest.raises(RefusalError, match=r"^a\. b\. c\.$"):
        refused_at_once(create_and_fail)


def test_a_refusal_that_ends_it_keeps_its_advice():
    def create_and_fail():
        refuse(["a."])
        raise RefusalError(Reasons(["b."], "c."))

    with pytest.raises(RefusalError, match=r"^a\. b\. c\.$"):
        refused_at_once(create_and_fail)


def test_an_error_that_follows_from_a_refusal_is_its_cause_only():
    def create_and_fail():
        refuse(["a."])
        raise AttributeError("of something that is not there")

    with pytest.raises(RefusalError, match=r"^a\.$") as refused:
        refused_at_once(create_and_fail)
    assert isinstance(refused.value.__cause__, AttributeError)


def test_an_error_without_a_refusal_stays_what_it_is():
    def create_and_fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        refused_at_once(create_and_fail)


def test_reasons_are_noted_for_who_collects_them():
    def create_anyway() -> int:
        refuse(["a."], advice="c.")
        return 3

    with collecting() as found:
        assert refused_at_once(create_anyway) == 3
    assert found == Reasons(["a."], "c.")


def test_a_refusal_can_be_sent():
    refused = pickle.loads(pickle.dumps(RefusalError(Reasons(["a.", "b."], "c."))))
    assert str(refused) == "a. b. c."
    assert refused.reasons == Reasons(["a.", "b."], "c.")

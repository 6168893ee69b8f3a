"""Who decodes what, and when."""

from vllm_mtad.tools.harness.methods import Sampling, mtad, target_alone
from vllm_mtad.tools.harness.turns import WARM_UP, Rounds

ENGINES = [(target_alone(), "a"), (mtad(sampling=Sampling(0.0)), "b")]


def rounds(**more):
    return Rounds(list("pqrstu"), 7, (1, 8), 2, lambda in_flight: 3 + in_flight, seed=10, stop=("end",), **more)


def test_engines_take_turns_on_the_same_prompts_and_seeds():
    turns = [turn for turn in rounds().turns(ENGINES) if turn.number != WARM_UP]
    assert [turn.llm for turn in turns] == ["a", "b"] * 4
    for own, other in zip(turns[::2], turns[1::2]):
        assert (own.number, own.in_flight, own.prompts, own.seed) == (
            other.number,
            other.in_flight,
            other.prompts,
            other.seed,
        )
    assert [(turn.number, turn.in_flight, turn.seed) for turn in turns[::2]] == [
        (0, 1, 10),
        (1, 1, 11),
        (0, 8, 10),
        (1, 8, 11),
    ]


def test_each_round_goes_on_in_the_prompts_and_begins_again_at_their_end():
    found = [turn.prompts for turn in rounds(warms_up=False).turns(ENGINES[:1])]
    assert found == [list("pqrs"), list("tupq"), list("pqrstupqrst"), list("upqrstupqrs")]


def test_what_warms_up_comes_first_is_short_and_is_not_counted():
    turns = list(rounds().turns(ENGINES))
    assert [turn.number for turn in turns[:2]] == [WARM_UP, WARM_UP]
    assert len(next(turn for turn in turns if turn.in_flight == 8).prompts) == 8
    assert rounds().num_prompts(2) == sum(len(turn.prompts) for turn in turns if turn.number != WARM_UP)
    assert not any(turn.number == WARM_UP for turn in rounds(warms_up=False).turns(ENGINES))


def test_each_method_samples_as_it_says():
    first, second = list(rounds().turns(ENGINES))[:2]
    assert (first.params.temperature, second.params.temperature) == (1.0, 0.0)
    assert (first.params.max_tokens, first.params.stop) == (7, ["end"])

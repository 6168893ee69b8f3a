"""Made-up rows."""

from vllm_mtad.config.options import MTADOptions
from vllm_mtad.tools.harness.intervals import Interval
from vllm_mtad.tools.harness.methods import Sampling, draft_model, mtad, target_alone
from vllm_mtad.tools.tune.rows import Row, Speed

PLAIN_NATS = 0.5
EQUAL = Interval(0.0, -0.01, 0.01)
LIKELIER, LESS_LIKELY, UNCLEAR = Interval(-0.1, -0.12, -0.08), Interval(0.1, 0.08, 0.12), Interval(-0.1, -0.3, 0.1)


def speeds(ratio, spread=0.02):
    return {1: Speed(100 * ratio, ratio, ratio - spread, ratio + spread)}


def target(**more):
    return Row(target_alone(), mean_acceptance_length=None, speeds=speeds(1.0, 0), nats=PLAIN_NATS, **more)


def vanilla(ratio, gamma=4, **more):
    return Row(
        draft_model(gamma), mean_acceptance_length=3.0, speeds=speeds(ratio), nats=0.51, nats_difference=EQUAL, **more
    )


def candidate(ratio, difference, gamma=4, beam_width=4, tau=0.5, spread=0.02, sampling=None, **more):
    method = mtad(MTADOptions(gamma, beam_width, tau), sampling or Sampling())
    figures = {"mean_acceptance_length": 4.0, "speeds": speeds(ratio, spread), "nats": PLAIN_NATS + difference.value}
    return Row(method, nats_difference=difference, **(figures | more))

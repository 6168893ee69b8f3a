"""The line about several candidates: when it comes, and what it says."""

import pytest
import torch
from vllm import envs

from vllm_mtad.runners.v2 import verification_log
from vllm_mtad.runners.v2.verification_log import VerificationLog


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(verification_log.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def lines(monkeypatch):
    found = []
    monkeypatch.setattr(verification_log.logger, "info", lambda text, *values: found.append(text % values))
    monkeypatch.setattr(verification_log, "is_global_first_rank", lambda: True)
    return found


def test_figures_are_those_since_the_last_line(clock, lines):
    tally = torch.zeros(3, 3, dtype=torch.int64)
    log = VerificationLog(tally)
    for calls in (4, 10):
        tally[1] += torch.tensor([calls, 3 * calls, calls // 2])
        log.step()
        assert lines == [], "the interval has not passed"
        clock[0] += envs.VLLM_LOG_STATS_INTERVAL
        log.step()
        tally[2] += 100  # what comes while the figures are on their way waits for the next line
        log.step()
        assert len(lines) == 1
        assert lines.pop().startswith(f"MTAD: mean acceptance length {'4.00' if calls == 4 else '2.18'}, ")
        clock[0] += 1


def test_nothing_is_said_of_nothing(clock, lines):
    log = VerificationLog(torch.zeros(3, 3, dtype=torch.int64))
    for _ in range(4):
        clock[0] += 2 * envs.VLLM_LOG_STATS_INTERVAL
        log.step()
    assert lines == []


def test_another_rank_is_silent(clock, lines, monkeypatch):
    monkeypatch.setattr(verification_log, "is_global_first_rank", lambda: False)
    log = VerificationLog(torch.ones(1, 3, dtype=torch.int64))
    for _ in range(3):
        clock[0] += 2 * envs.VLLM_LOG_STATS_INTERVAL
        log.step()
    assert lines == []

"""The choices that the method leaves open, by the names that users give them. Imports nothing."""

from __future__ import annotations

from typing import Literal

DraftSampling = Literal["beam_sample", "beam_search"]
GreedyMode = Literal["lossless", "joint"]
AcceptanceMode = Literal["joint", "per_token"]
CandidateTest = Literal["own", "reference"]

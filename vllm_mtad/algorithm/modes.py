"""These types name the choices that the method leaves open, as users write them."""

from __future__ import annotations

from typing import Literal

DraftSampling = Literal["beam_sample", "beam_search"]
GreedyMode = Literal["lossless", "joint"]
AcceptanceMode = Literal["joint", "per_token"]
CandidateTest = Literal["own", "reference"]

"""`send_all` sends requests with a changing number in flight, hangs up where a request says so, and notes every end."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.soak.asks import Ask

PATIENCE_S = 1800.0
"""After so long without an answer a request counts as hanging."""


@dataclass
class Answer:
    """How a request ended. `status`: HTTP's, 0 without one. `texts`: of each choice. `error`: why it was lost."""

    ask: Ask
    status: int = 0
    texts: list[str] = field(default_factory=list)
    finished: list[str | None] = field(default_factory=list)
    error: str | None = None
    is_aborted: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether every choice came to its end."""
        return self.error is None and len(self.finished) == self.ask.choices and all(self.finished)


def send_all(
    url: str, asks: Sequence[Ask], most_in_flight: int, seed: int, ended: Callable[[Answer], None] = lambda answer: None
) -> list[Answer]:
    """An answer to each. `ended` is called with each as it comes."""
    return asyncio.run(_send_all(url, asks, most_in_flight, random.Random(seed), ended))


async def _send_all(
    url: str, asks: Sequence[Ask], most_in_flight: int, generator: random.Random, ended: Callable[[Answer], None]
) -> list[Answer]:
    answers, running = [Answer(ask) for ask in asks], set[asyncio.Task[None]]()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=most_in_flight)
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as client:
        in_flight = most_in_flight
        for number, answer in enumerate(answers):
            if number % 20 == 0:
                in_flight = generator.randint(1, most_in_flight)
            while len(running) >= in_flight:
                _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            running.add(asyncio.create_task(_send(client, answer, ended)))
        while running:
            _, running = await asyncio.wait(running)
    return answers


async def _send(client: httpx.AsyncClient, answer: Answer, ended: Callable[[Answer], None]) -> None:
    ask = answer.ask
    content = ask.body if isinstance(ask.body, str) else json.dumps(ask.body)
    request = client.build_request(
        "POST", "/v1/completions", content=content, headers={"Content-Type": "application/json"}
    )
    try:
        response = await client.send(request, stream=True)
        answer.status = response.status_code
        try:
            if ask.streams and response.status_code == 200:
                await _read_stream(response, answer)
            else:
                _read(json.loads(await response.aread()), answer)
        finally:
            await response.aclose()
    except (httpx.HTTPError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    ended(answer)


def _read(body: dict[str, Any], answer: Answer) -> None:
    for choice in body.get("choices", []):
        answer.texts.append(choice["text"])
        answer.finished.append(choice["finish_reason"])


async def _read_stream(response: httpx.Response, answer: Answer) -> None:
    choices, chunks = answer.ask.choices, 0
    answer.texts, answer.finished = [""] * choices, [None] * choices
    if answer.ask.aborts_after == 0:
        answer.is_aborted = True
        return
    async for line in response.aiter_lines():
        if not line.startswith("data: {"):
            continue
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            answer.error = str(event["error"])
        for choice in event.get("choices", []):
            answer.texts[choice["index"]] += choice["text"]
            answer.finished[choice["index"]] = choice["finish_reason"] or answer.finished[choice["index"]]
        chunks += 1
        if answer.ask.aborts_after is not None and chunks >= answer.ask.aborts_after:
            answer.is_aborted = True
            return

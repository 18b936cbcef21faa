"""Requests of a harness to its server: bounded, retried, counted, and stored as they are answered.

For harnesses that let day0 send their requests. A request ends in just one of three ways: with a whole, well-formed
answer; failed, after its attempts are used up or at once where repeating it cannot help; or never asked, because too
many in a row had failed. None of the last two ever becomes an answer.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

# What may be over at a later attempt: timeouts, conflicts, rate limits, and errors of the server itself.
RETRIED_STATUSES = frozenset({408, 409, 425, 429, *range(500, 600)})
REFUSED_STATUSES = frozenset({401, 403})
FAILURES_IN_A_ROW = 16  # requests given up one after the other, none answered between them
LONGEST_WAIT_SECONDS = 30.0


class NotAnswered(Exception):
    """A request that has no answer; ``kind`` is rejected, refused, rate limit, or failed."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class Abandoned(Exception):
    """No use in asking on; ``kind`` as for NotAnswered."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class DiskFull(Exception):
    """Answers cannot be stored."""


def seed_of(seed: int, prompt: Any) -> int:
    """The seed of one sampled request: of the run's repeat and the prompt, so that no two questions share their draws.

    An engine draws the same numbers at the same token for every request of one seed. The answers to different questions
    then fail together, and an error that takes the questions as independent is far too small: with one seed per repeat
    15 % of evaluations of one and the same model differed by more than chance (benchmarks/decision.py --part runs).

    Args:
        seed: of the suite, plus the number of the repeat.
        prompt: as it is sent, a text, token numbers or messages.

    Returns:
        A number from 0 to 2^31 - 1, the same for the baseline and the candidate.
    """
    digest = hashlib.sha256(json.dumps([seed, prompt], sort_keys=True).encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


class AnswerStore:
    """Answers by prompt, appended to a JSONL file line by line; a last line cut by a kill is dropped.

    Args:
        path: the file; None keeps nothing.
    """

    def __init__(self, path: str | None) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.stream = None
        self._path = path

    def open(self) -> None:
        """Read what is stored, and be ready to add to it.

        Raises:
            DiskFull: the file cannot be read and written.
        """
        if self._path is None:
            return
        try:
            self._open(Path(self._path))
        except OSError as error:
            raise DiskFull(f"{self._path}: {error.strerror or error}") from error

    def _open(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if file.exists():
            for line in file.read_bytes().splitlines(keepends=True):
                try:
                    if not line.endswith(b"\n"):
                        break
                    entry = json.loads(line)
                    self.answers[entry["key"]] = entry
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(line)
            os.truncate(file, whole)
        self.stream = file.open("ab", buffering=0)

    @staticmethod
    def key(url_path: str, payload: Mapping[str, Any]) -> str:
        """sha256 of everything that is sent for one prompt: a prompt that differs in anything has another key."""
        return hashlib.sha256(json.dumps([url_path, payload], sort_keys=True).encode()).hexdigest()

    def add(self, answers: Mapping[str, Mapping[str, Any]]) -> None:
        """Keep the answers of one request by their keys.

        Raises:
            DiskFull: they could not be written whole.
        """
        if self.stream is None:
            return
        lines = [json.dumps({"key": key, **answer}, ensure_ascii=False) + "\n" for key, answer in answers.items()]
        content = "".join(lines).encode()
        try:
            written = self.stream.write(content)
        except OSError as error:
            raise DiskFull(f"{self.stream.name}: {error.strerror or error}") from error
        if written != len(content):
            raise DiskFull(f"{self.stream.name}: only {written} of {len(content)} bytes could be written")


class Limiter:
    """Lets prompts pass up to a limit that may be changed from another thread; first come, first served."""

    def __init__(self, limit: int) -> None:
        self._limit, self._used = limit, 0
        self._waiting: deque[tuple[int, asyncio.Future]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    def set_limit(self, limit: int) -> None:
        """Change the limit."""
        self._limit = max(1, limit)
        if self._loop is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._wake)

    async def acquire(self, prompts: int) -> None:
        """Wait until so many more prompts may be in flight; one request may always be."""
        self._loop = asyncio.get_running_loop()
        if not self._waiting and self._fits(prompts):
            self._used += prompts
            return
        turn = self._loop.create_future()
        self._waiting.append((prompts, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release(prompts)
            raise

    def release(self, prompts: int) -> None:
        """Give back what ``acquire`` took."""
        self._used -= prompts
        self._wake()

    def _fits(self, prompts: int) -> bool:
        return self._used == 0 or self._used + prompts <= self._limit

    def _wake(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._fits(self._waiting[0][0])):
            prompts, turn = self._waiting.popleft()
            if not turn.cancelled():
                self._used += prompts
                turn.set_result(None)


class Transport:
    """Sends requests and counts what became of them.

    Args:
        headers: of every request.
        concurrency: prompts in flight.
        max_attempts: attempts of a request before it counts as failed.
        timeout_seconds: of one attempt.
        store: where answers are kept.
        report: called with the numbers of prompts answered and expected, at most once a second.
    """

    def __init__(
        self,
        headers: Mapping[str, str],
        concurrency: int,
        max_attempts: int,
        timeout_seconds: float,
        store: AnswerStore,
        report: Callable[[int, int], None],
    ) -> None:
        self.limiter = Limiter(concurrency)
        self.store = store
        self.statuses: Counter[str] = Counter()
        self.expected = self.answered = self.from_store = self.retried = self.failed = self.lost = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.first_failure: str | None = None
        self._kinds: Counter[str] = Counter()
        self._in_a_row = 0
        self._identities: set[str] = set()  # of the responses so far; vLLM gives each its own
        self._headers, self._max_attempts, self._timeout = dict(headers), max_attempts, timeout_seconds
        self._report, self._next_report = report, 0.0
        self._session: aiohttp.ClientSession | None = None
        self.is_stopped = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    async def gather(self, asking: Iterable[Awaitable[Any]]) -> list[Any]:
        """Run all, with one session of connections; the first exception ends them all, or ``stop``, which gives []."""
        timeout = aiohttp.ClientTimeout(total=self._timeout)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=self._headers, timeout=timeout) as session:
            self._session = session
            self._loop, self._stopping = asyncio.get_running_loop(), asyncio.Event()
            if self.is_stopped:
                self._stopping.set()
            tasks = [asyncio.ensure_future(one) for one in asking]
            everything = asyncio.gather(*tasks)
            stopping = asyncio.ensure_future(self._stopping.wait())
            try:
                await asyncio.wait({everything, stopping}, return_when=asyncio.FIRST_COMPLETED)
                return everything.result() if everything.done() else []
            finally:
                for task in (stopping, everything, *tasks):
                    task.cancel()
                await asyncio.gather(stopping, everything, *tasks, return_exceptions=True)

    def stop(self) -> None:
        """Ask no more, and do not wait for what is in flight; from any thread."""
        self.is_stopped = True
        if self._loop is not None and self._stopping is not None and self._loop.is_running():
            self._loop.call_soon_threadsafe(self._stopping.set)

    async def ask(
        self,
        url: str,
        prompts: int,
        payload_of: Callable[[Sequence[int]], Mapping[str, Any]],
        parse: Callable[[Any, Sequence[int]], Sequence[Mapping[str, Any]]],
    ) -> list[Mapping[str, Any]]:
        """The parsed answers of some prompts: from the store what it has, the rest by one request.

        Args:
            prompts: how many; they are numbered from 0.
            payload_of: gives the payload that asks the prompts of some numbers.
            parse: takes a response's JSON, and the numbers of the prompts asked, to what is stored of each (JSON-able);
                raises ValueError where the response is not whole.

        Raises:
            NotAnswered: this request failed.
            Abandoned: too many failed in a row, or the server refuses the key.
            DiskFull: the answer could not be stored.
        """
        path = "/" + url.split("/", 3)[-1]
        keys = [self.store.key(path, payload_of([number])) for number in range(prompts)]
        answers = {number: self.store.answers[key] for number, key in enumerate(keys) if key in self.store.answers}
        missing = [number for number in range(prompts) if number not in answers]
        if missing:
            await self.limiter.acquire(len(missing))
            try:
                found = await self._post(url, payload_of(missing), lambda content: parse(content, missing))
            except NotAnswered:
                raise
            except BaseException:
                self.lost += len(missing)
                raise
            finally:
                self.limiter.release(len(missing))
            self._in_a_row = 0
            self.store.add({keys[number]: answer for number, answer in zip(missing, found, strict=True)})
            answers.update(zip(missing, found, strict=True))
        self.from_store += prompts - len(missing)
        self._progress(prompts)
        return [answers[number] for number in range(prompts)]

    def give_up(self, prompts: int, reason: NotAnswered) -> None:
        """Count prompts as failed.

        Raises:
            Abandoned: so many in a row that asking on is no use.
        """
        self.failed += prompts
        self._kinds[reason.kind] += prompts
        self.first_failure = self.first_failure or str(reason)
        if reason.kind == "refused":
            raise Abandoned(reason.kind, str(reason)) from reason
        self._in_a_row += 1
        if self._in_a_row >= FAILURES_IN_A_ROW:
            sentence = f"{self._in_a_row} requests in a row were given up, the last one: {reason}"
            raise Abandoned(self.kind_of_failures(), sentence) from reason

    def kind_of_failures(self) -> str:
        """The kind that most failed prompts have."""
        return self._kinds.most_common(1)[0][0] if self._kinds else "failed"

    def counts(self) -> dict[str, Any]:
        """Prompts asked, answered, taken from the store and failed; attempts repeated; attempts by their result."""
        return {
            "expected": self.expected,
            "asked": self.answered + self.failed + self.lost,
            "answered": self.answered,
            "from_store": self.from_store,
            "failed": self.failed,
            "retried": self.retried,
            "attempts": dict(sorted(self.statuses.items())),
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
        }

    def _progress(self, prompts: int) -> None:
        self.answered += prompts
        if (now := time.monotonic()) >= self._next_report:
            self._next_report = now + 1
            self._report(self.answered, self.expected)

    async def _post(
        self, url: str, payload: Mapping[str, Any], parse: Callable[[Any], Sequence[Mapping[str, Any]]]
    ) -> Sequence[Mapping[str, Any]]:
        assert self._session is not None
        for attempt in range(1, self._max_attempts + 1):
            wait = 0.0
            try:
                async with self._session.post(url, json=payload) as response:
                    status, text = response.status, await response.read()
                    wait = _retry_after(response.headers.get("Retry-After"))
                if status == 200:
                    content = json.loads(text)
                    self._check_origin(text, content, payload)
                    parsed = parse(content)
                    self.statuses["200"] += 1
                    self._count_tokens(content)
                    return parsed
                self.statuses[str(status)] += 1
                problem = f"status {status}: {text.decode(errors='replace').strip()[:300]}"
                kind = "rate limit" if status == 429 else "failed"
                if status in REFUSED_STATUSES:
                    raise NotAnswered("refused", problem)
                if status not in RETRIED_STATUSES:
                    raise NotAnswered("rejected", problem)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                self.statuses["garbled"] += 1
                problem, kind = f"an answer that is not whole ({type(error).__name__}: {error})"[:300], "failed"
            except TimeoutError:
                self.statuses["timeout"] += 1
                problem, kind = f"no answer within {self._timeout:g} s", "failed"
            except aiohttp.ClientError as error:
                self.statuses["disconnected"] += 1
                problem, kind = f"{type(error).__name__}: {error}"[:300], "failed"
            if attempt < self._max_attempts:
                self.retried += 1
                backoff = min(LONGEST_WAIT_SECONDS, 0.5 * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)
                await asyncio.sleep(max(wait, backoff))
        raise NotAnswered(kind, f"{problem} (after {self._max_attempts} attempts)")

    def _check_origin(self, text: bytes, content: Any, payload: Mapping[str, Any]) -> None:
        """Refuse what cannot be this request's answer, whatever stands between the server and this process.

        Raises:
            ValueError: it is another model's, one that was given before, or no text (half of a surrogate pair).
        """
        asked = payload.get("model")
        if asked is not None and content["model"] != asked:
            raise ValueError(f"it is of model {content['model']!r}, asked was {asked!r}")
        if (identity := content.get("id")) is not None:
            if identity in self._identities:
                raise ValueError(f"the answer {identity!r} was given before, to another request")
            self._identities.add(identity)
        if b"\\ud" in text.lower():
            json.dumps(content, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError

    def _count_tokens(self, content: Any) -> None:
        usage = content.get("usage") if isinstance(content, dict) else None
        if isinstance(usage, dict):
            self.prompt_tokens += usage.get("prompt_tokens") or 0
            self.completion_tokens += usage.get("completion_tokens") or 0


def _retry_after(value: str | None) -> float:
    """Seconds of a Retry-After header, bounded; a date or anything else counts as none."""
    try:
        return min(max(float(value or 0), 0.0), LONGEST_WAIT_SECONDS)
    except ValueError:
        return 0.0

"""Requests of a harness: what is repeated, what is given up, what is stored, and how many are in flight."""

import asyncio
import json

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

import harness_transport
from harness_lm_eval import parse_generations, parse_likelihoods, without_reasoning
from harness_transport import Abandoned, AnswerStore, DiskFull, Limiter, NotAnswered, Transport, seed_of


def opened(path):
    store = AnswerStore(path and str(path))
    store.open()
    return store


def answering(script, store=None, prompts=1, requests=1, model=None, **options):
    """Send requests to a server that answers by ``script`` (status, body or "drop"; the last for ever after).

    Returns what became of each, the transport, and how many attempts the server saw.
    """
    seen = []

    async def handle(request):
        step = script[min(len(seen), len(script) - 1)]
        seen.append(await request.json())
        if step == "drop":
            request.transport.close()
        status, body = step if isinstance(step, tuple) else (200, "")
        return web.Response(status=status, text=body, headers={"Retry-After": "0"})

    async def run():
        application = web.Application()
        application.router.add_post("/v1/completions", handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        settings = {"concurrency": 8, "max_attempts": 3, "timeout_seconds": 5, "report": lambda *_: None, **options}
        transport = Transport(headers={}, store=opened(store), **settings)

        async def one(number):
            url = f"http://127.0.0.1:{port}/v1/completions"

            def payload_of(numbers):
                return {"prompt": [[number, n] for n in numbers], **({"model": model} if model else {})}

            try:
                return await transport.ask(url, prompts, payload_of, lambda content, numbers: content["answers"])
            except NotAnswered as error:
                transport.give_up(prompts, error)
                return error

        try:
            return await transport.gather(one(number) for number in range(requests)), transport
        finally:
            await runner.cleanup()

    return *asyncio.run(run()), seen


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(harness_transport.random, "uniform", lambda *_: 0.0)


GOOD = (200, '{"answers": [{"text": "x"}], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}')


@pytest.mark.parametrize("bad", [(500, ""), (503, "busy"), (429, "slow"), (408, ""), "drop", (200, "{"), (200, "{}")])
def test_what_may_pass_is_repeated(bad):
    (answer,), transport, seen = answering([bad, bad, GOOD])
    assert answer == [{"text": "x"}] and len(seen) == 3
    counts = transport.counts()
    assert (counts["answered"], counts["failed"], counts["retried"]) == (1, 0, 2)
    assert counts["attempts"]["200"] == 1 and sum(counts["attempts"].values()) == 3
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (5, 2)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"model": "another"}, "it is of model 'another', asked was 'm'"),
        ({"model": None}, "it is of model None"),
        ({"model": "m", "id": "1"}, "was given before"),
        ({"model": "m", "answers": [{"text": "\ud800"}]}, "surrogates not allowed"),
        ({}, "KeyError: 'model'"),
    ],
)
def test_what_cannot_be_this_requests_answer_is_repeated_and_then_given_up(bad, words):
    first = {"answers": [{"text": "x"}], "model": "m", "id": "1"}
    fresh, wrong = ((200, json.dumps(content)) for content in (first, {"answers": [{"text": "x"}], **bad}))
    answers, transport, _ = answering([fresh, wrong], requests=2, model="m", concurrency=1)
    assert answers[0] == [{"text": "x"}] and isinstance(answers[1], NotAnswered) and words in str(answers[1])
    assert transport.counts()["attempts"] == {"200": 1, "garbled": 3}


@pytest.mark.parametrize(("bad", "kind"), [((500, "x"), "failed"), ((429, "x"), "rate limit"), ((200, "{"), "failed")])
def test_after_its_attempts_a_request_is_given_up(bad, kind):
    (error,), transport, seen = answering([bad])
    assert isinstance(error, NotAnswered) and error.kind == kind and len(seen) == 3
    assert (transport.counts()["failed"], transport.counts()["answered"]) == (1, 0)


def test_what_the_server_rejects_is_not_repeated():
    (error,), _, seen = answering([(400, "too long")])
    assert error.kind == "rejected" and "too long" in str(error) and len(seen) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_ends_all(status):
    with pytest.raises(Abandoned, match=str(status)):
        answering([(status, "no")], requests=4)


def test_too_many_in_a_row_end_all_and_one_answer_between_them_does_not():
    with pytest.raises(Abandoned, match="16 requests in a row"):
        answering([(400, "no")], requests=40)
    answers, transport, _ = answering([*[(400, "no")] * 15, GOOD, (400, "no")], requests=30, concurrency=1)
    assert len(answers) == 30 and transport.counts()["failed"] == 29


def test_a_stored_answer_is_not_asked_again(tmp_path):
    store = str(tmp_path / "store.jsonl")
    answering([GOOD], store, requests=3)
    answers, transport, seen = answering([(500, "")], store, requests=3)
    assert seen == [] and len(answers) == 3 and transport.counts()["from_store"] == 3


def test_of_a_request_only_the_prompts_without_an_answer_are_asked_again(tmp_path):
    store, urls = tmp_path / "store.jsonl", "/v1/completions"
    opened(store).add({AnswerStore.key(urls, {"prompt": [[0, n]]}): {"text": f"old {n}"} for n in (0, 2)})
    script = [(200, '{"answers": [{"text": "new 1"}, {"text": "new 3"}]}')]
    (answers,), transport, seen = answering(script, store, prompts=4)
    assert [answer["text"] for answer in answers] == ["old 0", "new 1", "old 2", "new 3"]
    assert seen == [{"prompt": [[0, 1], [0, 3]]}]
    assert (transport.counts()["from_store"], transport.counts()["answered"]) == (2, 4)
    assert len(opened(store).answers) == 4


@given(cut=st.integers(0, 200))
def test_a_store_cut_anywhere_keeps_its_whole_lines(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("store") / "store.jsonl"
    store = opened(path)
    store.add({f"key-{number}": {"text": "ä" * number} for number in range(2)})
    store.add({"key-2": {"text": "ää"}})
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    kept = whole[:cut].count(b"\n")
    again = opened(path)
    assert sorted(again.answers) == [f"key-{number}" for number in range(kept)]
    again.add({"after": {"text": ""}})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()][-1] == "after"


def test_keys_differ_in_anything_that_is_asked():
    payload = {"prompt": [1], "temperature": 0, "seed": 1}
    keys = {AnswerStore.key("/v1/completions", payload), AnswerStore.key("/v1/chat/completions", payload)}
    keys |= {
        AnswerStore.key("/v1/completions", payload | change) for change in ({"seed": 2}, {"top_p": 1}, {"prompt": [2]})
    }
    assert len(keys) == 5
    assert AnswerStore.key("/", {"a": 1, "b": 2}) == AnswerStore.key("/", {"b": 2, "a": 1})


def test_a_full_disk_is_told(tmp_path):
    store = opened(tmp_path / "store.jsonl")
    store.stream = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
    with pytest.raises(DiskFull, match="No space left"):
        store.add({"key": {"text": ""}})


def test_a_store_that_cannot_be_opened_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DiskFull, match=r"file/store\.jsonl: File exists"):
        opened(tmp_path / "file" / "store.jsonl")


@given(limit=st.integers(1, 12), sizes=st.lists(st.integers(1, 16), min_size=1, max_size=20), later=st.integers(1, 12))
def test_no_more_prompts_are_in_flight_than_allowed(limit, sizes, later):
    async def run():
        limiter, flying, most = Limiter(limit), [], []

        async def one(size):
            await limiter.acquire(size)
            flying.append(size)
            most.append((sum(flying), len(flying), limiter._limit))
            await asyncio.sleep(0)
            flying.remove(size)
            limiter.release(size)
            if len(most) == len(sizes) // 2:
                limiter.set_limit(later)

        await asyncio.wait_for(asyncio.gather(*map(one, sizes)), 10)
        return most

    most = asyncio.run(run())
    assert len(most) == len(sizes)
    assert all(total <= allowed or count == 1 or total <= max(limit, later) for total, count, allowed in most)


def completion(*choices):
    return {"choices": [{"index": i, "text": "t", "finish_reason": "stop", **c} for i, c in enumerate(choices)]}


def test_generations_are_read_in_the_order_of_their_prompts():
    response = completion({"text": "a", "token_ids": [1, 2]}, {"text": "b", "token_ids": [], "finish_reason": "length"})
    response["choices"].reverse()
    assert parse_generations(response, 2, chat=False) == [
        {"text": "a", "finish_reason": "stop", "tokens": 2},
        {"text": "b", "finish_reason": "length", "tokens": 0},
    ]


def test_a_generation_of_another_prompt_is_no_answer():
    asked = [[1, 2], [3]]
    response = completion({"prompt_token_ids": [1, 2]}, {"prompt_token_ids": [3]})
    assert len(parse_generations(response, 2, chat=False, asked=asked)) == 2
    for choice in response["choices"]:
        choice["index"] = 1 - choice["index"]
    with pytest.raises(ValueError, match="another prompt"):
        parse_generations(response, 2, chat=False, asked=asked)


@pytest.mark.parametrize(
    "response",
    [
        {},
        {"choices": None},
        completion({}),
        completion({}, {"index": 0}),
        completion({}, {"text": None}),
        completion({}, {"finish_reason": None}),
        completion({}, {}, {}),
        [],
    ],
)
def test_a_generation_that_is_not_whole_is_no_answer(response):
    with pytest.raises((ValueError, KeyError, TypeError)):
        parse_generations(response, 2, chat=False)


def test_a_chat_without_content_is_an_answer_only_where_thoughts_took_its_place():
    def chat(content, reason="stop", **message):
        return completion({"message": {"content": content, **message}, "finish_reason": reason})

    assert parse_generations(chat("4"), 1, chat=True)[0]["text"] == "4"
    assert parse_generations(chat(None, "length"), 1, chat=True)[0]["text"] == ""
    assert parse_generations(chat(None, reasoning_content="hm"), 1, chat=True)[0]["text"] == ""
    with pytest.raises(ValueError, match="None"):
        parse_generations(chat(None), 1, chat=True)


def likelihood(values, best):
    tops = [None if value is None else {"t": top} for value, top in zip(values, best, strict=True)]
    return completion({"logprobs": {"token_logprobs": values, "top_logprobs": tops}})


def test_a_likelihood_is_that_of_the_continuation_alone():
    found = parse_likelihoods(likelihood([None, -1.0, -2.0, -3.0, -9.0], [0, -1.0, -2.0, -3.0, 0]), [2])
    assert found == [{"log_probability": -5.0, "greedy": True}]
    found = parse_likelihoods(likelihood([None, -1.0, -2.0, -9.0], [0, -1.0, -0.5, 0]), [2])
    assert found == [{"log_probability": -2.0, "greedy": False}]


def test_log_probabilities_of_a_part_of_the_tokens_are_no_answer():
    whole = [None, -1.0, -2.0, -3.0, -9.0]
    assert parse_likelihoods(likelihood(whole, whole), [2], [4])[0]["log_probability"] == -5.0
    for values in (whole[:2], whole[:4], [*whole, -1.0], [None]):
        with pytest.raises(ValueError, match=f"{len(values)} log probabilities; expected 5"):
            parse_likelihoods(likelihood(values, values), [2], [4])
    with pytest.raises(ValueError, match="3 log probabilities; expected 4"):
        parse_likelihoods(likelihood(whole[:3], whole[:3]), [2])


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), None, "x"])
def test_a_likelihood_that_is_no_number_is_no_answer(value):
    with pytest.raises((ValueError, TypeError)):
        parse_likelihoods(likelihood([None, -1.0, value, -9.0], [0, -1.0, -0.5, 0]), [2])


@pytest.mark.parametrize(
    ("text", "strip", "answer"),
    [
        ("hm </think>\n\n4", True, "4"),
        ("a </think> b </think> 4", True, "4"),
        ("4", True, "4"),
        ("hm </think> 4", False, "hm </think> 4"),
    ],
)
def test_reasoning_is_stripped_or_kept(text, strip, answer):
    assert without_reasoning(text, {"strip": strip, "end": "</think>"}) == answer
    assert without_reasoning(text, None) == text


def test_a_sampled_request_has_a_seed_of_its_prompt_and_its_repeat():
    seeds = {seed_of(seed, prompt) for seed in (1234, 1235) for prompt in ([1, 2], [2, 1], "1 2", [{"role": "user"}])}
    assert len(seeds) == 8 and all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(1234, [1, 2]) == seed_of(1234, [1, 2])

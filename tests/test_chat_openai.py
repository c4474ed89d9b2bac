"""A model behind a server that misbehaves on purpose: nothing is lost, invented, asked twice or waited for forever."""

from __future__ import annotations

import dataclasses
import email.utils
import functools
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from chat_server import FAULTS, chat_completion, chat_server, endless, last_message, says, slow, status
from hypothesis import given, settings
from hypothesis import strategies as st

from memalpha_jax.chat.cache import FILE, ReplyCache
from memalpha_jax.chat.config import ChatConfig
from memalpha_jax.chat.model import ChatError, Completion, Message, ask
from memalpha_jax.chat.openai import OpenAIChat
from memalpha_jax.chat.server import retry_after
from memalpha_jax.errors import UserError

KEY = "sk-this-is-secret"


def config(url: str, **changes) -> ChatConfig:
    quick = ChatConfig(kind="openai", base_url=url, model="m", backoff_s=0.002, timeout_s=1.0, deadline_s=20.0)
    return dataclasses.replace(quick, **{"start_timeout_s": 0.5, **changes})


def make(url: str, cache: Path | None = None, **changes) -> OpenAIChat:
    return OpenAIChat(config(url, **changes), len, cache)


REQUESTS = [ask(f"question {i} \ud800", 5, system="Be brief.") for i in range(24)]
REPLIES = [f"question {i} ?" for i in range(24)]


def by_number(body) -> int:
    return int([*last_message(body).split(), "0", "0"][1])


@pytest.mark.parametrize("name", FAULTS)
def test_a_passing_fault_changes_no_reply(name):
    def faults(body):
        return [FAULTS[name]] * (by_number(body) % 3 if name != "slow" else by_number(body) % 2)

    with chat_server(faults=faults) as server:
        chat = make(server.url)
        found = chat.complete(REQUESTS[:6])
    assert found == [Completion(reply, "", 7, 3) for reply in REPLIES[:6]]
    assert chat.usage.retries == len(server.bodies) - 6 > 0
    assert chat.usage.failures == 0


def test_all_faults_together_lose_nothing():
    """Half of the requests meet two faults each."""
    kinds = list(FAULTS.values())

    def faults(body):
        i = by_number(body)
        return [kinds[i % len(kinds)], kinds[(5 * i + 1) % len(kinds)]] * (i % 2)

    with chat_server(faults=faults) as server:
        found = make(server.url, concurrency=8).complete(REQUESTS)
    assert [completion.text for completion in found] == REPLIES
    assert 1 < server.most_under_way <= 8


def test_what_is_sent(monkeypatch):
    monkeypatch.setenv("SOME_KEY", KEY)
    with chat_server() as server:
        chat = make(server.url, api_key_env="SOME_KEY", extra_body='{"top_p": 0.5}')
        chat.complete([dataclasses.replace(REQUESTS[0], temperature=0.7)])
        make(server.url.removesuffix("/v1"), api_key_env="NOT_SET_ANYWHERE").complete([ask("a", 1)])
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "question 0 ?"}]
    expected = {"model": "m", "messages": messages, "max_tokens": 5, "temperature": 0.7, "top_p": 0.5}
    assert server.bodies[0] == expected
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert "Authorization" not in server.headers[1]


def test_half_the_replies_missing_are_failures_and_not_texts():
    def faults(body):
        refusal = says(chat_completion(None, refusal="I will not."))
        return [[], [FAULTS["no content"]] * 999, [refusal], [status(400)]][by_number(body) % 4]

    with chat_server(faults=faults) as server:
        chat = make(server.url, deadline_s=3.0)
        found = chat.complete(REQUESTS[:8])
    for i, completion in enumerate(found):
        reasons = ["", "without content", "refuses: 'I will not.'", "status 400, 'so sorry'"]
        assert reasons[i % 4] in completion.failure
        assert completion.text == ("" if i % 4 else REPLIES[i])
        assert bool(completion.failure) == bool(i % 4)
    assert chat.usage.failures == 6
    assert sum(by_number(body) % 4 > 1 for body in server.bodies) == 4  # what cannot pass is not tried again


def test_an_attempt_that_the_deadline_cuts_short_does_not_hide_what_went_wrong_before():
    def faults(body):
        return [FAULTS["no content"]] * by_number(body) + [endless] * 999

    with chat_server(faults=faults) as server:
        unfinished, without_content = make(server.url, deadline_s=1.5, timeout_s=9.0).complete(REQUESTS[:2])
    assert "was not over after" in unfinished.failure
    assert "without content" in without_content.failure


def test_the_deadline_holds_against_a_server_that_is_always_late():
    with chat_server(faults=lambda body: [slow(1.5)] * 99 if by_number(body) else []) as server:
        begin = time.monotonic()
        chat = make(server.url, deadline_s=2.0, timeout_s=1.0)
        late, timely = chat.complete(REQUESTS[1:2] + REQUESTS[:1])
        assert "ReadTimeout" in late.failure
        assert timely.text == REPLIES[0]
        server.faults = lambda body: [slow(3)] * 99  # now it does not even answer something small
        with pytest.raises(ChatError, match="no answer"):
            chat.complete(REQUESTS[1:3])
    assert time.monotonic() - begin < 20


def test_retry_after_is_waited_for_and_may_be_too_long():
    def faults(body):
        return [status(429, **{"Retry-After": "30" if by_number(body) else "0.3"})]

    with chat_server(faults=faults) as server:
        begin = time.monotonic()
        assert make(server.url).complete(REQUESTS[:1])[0].text == REPLIES[0]
        assert time.monotonic() - begin >= 0.3
        found = make(server.url, deadline_s=5.0).complete(REQUESTS[1:2])
    assert "status 429" in found[0].failure


@given(st.one_of(st.text(max_size=30), st.floats(), st.integers()).map(str))
def test_any_retry_after_is_a_wait_or_none(value):
    assert 0 <= retry_after(value) < float("inf")


def test_retry_after_may_be_a_date():
    assert retry_after(email.utils.formatdate(time.time() + 50, usegmt=True)) == pytest.approx(50, abs=3)
    assert retry_after(email.utils.formatdate(time.time() - 50)) == 0
    assert retry_after("1.5") == 1.5


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def test_a_server_that_is_down_is_told_in_time():
    chat = make(f"http://127.0.0.1:{free_port()}/v1")
    with pytest.raises(ChatError, match=r"no answer from http://127.*base_url"):
        chat.check()


def test_a_server_that_accepts_and_says_nothing_is_told_in_time():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        begin = time.monotonic()
        with pytest.raises(ChatError, match="no answer"):
            make(f"http://127.0.0.1:{sock.getsockname()[1]}").check()
        assert time.monotonic() - begin < 10


def test_a_server_that_only_misbehaves_is_not_down():
    for fault in (FAULTS["500"], FAULTS["broken JSON"], status(400)):
        with chat_server(faults=lambda body, fault=fault: [fault] * 999) as server:
            make(server.url).check()


@pytest.mark.parametrize(("code", "words"), [(401, "NO_SUCH_KEY"), (403, "key"), (404, "base_url"), (302, "base_url")])
def test_what_no_request_can_pass_ends_everything(code, words):
    with chat_server(faults=lambda body: [status(code)]) as server:
        chat = make(server.url, api_key_env="NO_SUCH_KEY")
        with pytest.raises(ChatError, match=f"status {code}") as caught:
            chat.check()
        assert words in str(caught.value)
        with pytest.raises(ChatError, match=f"status {code}"):
            chat.complete(REQUESTS)


def test_the_key_is_nowhere_to_be_found(monkeypatch, tmp_path):
    monkeypatch.setenv("SOME_KEY", KEY)
    repeats = f'{{"error": {{"message": "the key {KEY} is not good enough"}}}}'.encode()
    with chat_server(faults=lambda body: [status(400, repeats)] if by_number(body) == 1 else []) as server:
        chat = make(server.url, tmp_path, api_key_env="SOME_KEY")
        found = chat.complete(REQUESTS[:3])
        assert "the key *** is not" in found[1].failure
        server.faults = lambda body: [status(401, repeats)]
        with pytest.raises(ChatError) as caught:
            chat.one(ask("question 99", 5))
    for text in (str(caught.value), chat.identity, str(chat.usage), repr(chat.usage), *(c.failure for c in found)):
        assert KEY not in text
    assert all(KEY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_a_kept_reply_needs_no_request(tmp_path):
    with chat_server(faults=lambda body: [status(400)] * (by_number(body) == 2)) as server:
        patient = functools.partial(make, timeout_s=20.0)  # on a busy machine a late reply would be asked for again
        chat = patient(server.url, tmp_path)
        first = chat.complete(REQUESTS[:4] + REQUESTS[:2])
        assert len(server.bodies) == 4
        assert first[4:] == first[:2]
        again = patient(server.url, tmp_path)
        assert again.complete(REQUESTS[:4])[3] == first[3]
        assert len(server.bodies) == 5  # the failure was not kept
        assert again.usage.from_cache == 3
        asked = len(server.bodies)
        longer = [dataclasses.replace(REQUESTS[0], max_tokens=6), dataclasses.replace(REQUESTS[0], temperature=0.1)]
        again.complete(longer)
        patient(server.url, tmp_path, extra_body='{"top_k": 3}').complete(REQUESTS[:1])
        patient(server.url, tmp_path, model="other").complete(REQUESTS[:1])
        assert len(server.bodies) == asked + 4


TEXTS = st.text(max_size=20) | st.just("\0 ' ; DROP TABLE replies;")


@settings(max_examples=25, deadline=None)
@given(st.dictionaries(TEXTS, TEXTS))
def test_a_cache_is_a_dictionary_that_stays(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("cache")
    cache = ReplyCache(folder)
    for key, text in content.items():
        cache.put(key, Completion(text, "", 1, 2))
        assert cache.put(key, Completion("later")).text == text
    again = ReplyCache(folder)
    assert {key: again.get(key) for key in content} == {k: Completion(t, "", 1, 2) for k, t in content.items()}
    assert again.get("other than any of them") is None


def test_threads_share_a_cache(tmp_path):
    caches = [ReplyCache(tmp_path) for _ in range(2)]
    found: list[list[str]] = [[] for _ in range(4)]

    def work(n: int) -> None:
        for i in range(20):
            found[n].append(caches[n % 2].put(f"key {i}", Completion(f"from {n}")).text)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2] == found[3]


WRITER = """
import sys
from pathlib import Path
from memalpha_jax.chat.cache import ReplyCache
from memalpha_jax.chat.model import Completion
cache = ReplyCache(Path(sys.argv[1]))
for i in range(10**6):
    cache.put(f"key {i}", Completion("reply " * 50 + str(i)))
    print(i, flush=True)
"""


def test_a_kill_loses_no_reply_that_was_kept(tmp_path):
    with subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        kept = [int(process.stdout.readline()) for _ in range(200)][-1]
        process.kill()
    cache = ReplyCache(tmp_path)
    assert all(cache.get(f"key {i}").text == "reply " * 50 + str(i) for i in range(kept + 1))


def test_a_cache_that_is_none_is_told(tmp_path):
    (tmp_path / FILE).write_bytes(b"this is no database at all, however long it is" * 50)
    with pytest.raises(UserError, match=r"replies\.sqlite cannot be used"):
        ReplyCache(tmp_path).get("key")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot create"):
        ReplyCache(tmp_path / "file").put("key", Completion("text"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"base_url": ""}, "base_url is empty"),
        ({"base_url": "localhost:8000"}, "must be an address"),
        ({"base_url": "http://host:port"}, "must be an address"),
        ({"base_url": "http://me:secret@host/v1"}, "api_key_env"),
        ({"model": ""}, "no model is named"),
        ({"extra_body": "{"}, "no JSON"),
        ({"extra_body": "[]"}, "JSON object"),
        ({"extra_body": '{"model": "x"}'}, "sets 'model'"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"backoff_s": -1.0}, "backoff_s is -1"),
    ],
)
def test_wrong_settings_are_told(changes, words):
    with pytest.raises(UserError, match=words) as caught:
        config("http://localhost:1/v1", **changes) if "base_url" not in changes else config(changes["base_url"])
    assert "secret" not in str(caught.value)


def test_a_key_that_is_none_is_told_without_it(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "se\ncret")
    with pytest.raises(ChatError, match="SOME_KEY") as caught:
        make("http://localhost:1/v1", api_key_env="SOME_KEY")
    assert "cret" not in str(caught.value)


def test_seats_ask_on_their_own_and_tell_failures():
    with chat_server(faults=lambda body: [status(400)] * (by_number(body) == 1)) as server:
        first, second = make(server.url).seats(2)
        assert second.reply(REQUESTS[0]).text == REPLIES[0]
        with pytest.raises(ChatError, match="status 400"):
            first.reply(REQUESTS[1])
        first.leave()
        assert second.reply(REQUESTS[2]).text == REPLIES[2]


def test_the_cost_is_counted():
    with chat_server() as server:
        chat = make(server.url, price_prompt=2.0, price_completion=10.0)
        chat.complete(REQUESTS[:10])
    assert chat.usage.cost == pytest.approx(10 * (7 * 2 + 3 * 10) / 1e6)
    assert "10 requests answered (70 prompt tokens, 30 completion tokens, cost 0.00044)" in str(chat.usage)


def test_conversations_are_sent_whole():
    talk = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"))
    with chat_server(reply=lambda body: "".join(m["role"][0] + m["content"] for m in body["messages"])) as server:
        found = make(server.url).complete([dataclasses.replace(ask("", 1), messages=talk)])
    assert found[0].text == "uaabuc"

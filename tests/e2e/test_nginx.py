"""nginx before several services: what it passes on, what it sends to another, and that nothing is lost on the way."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.callers import PATIENCE_S, Callers, wait_until
from tests.support.drawn import PEOPLE, draw_portrait, encode
from tests.support.file_server import Answer, FileServer, file_server
from tests.support.proxy import NGINX_FOLDER, Proxy, render, require_nginx, running_proxy
from tests.support.scripted_server import Scripted, envelope, scripted_server
from tests.support.server import Server, free_port, running, service_environ
from tests.support.shared import REPOSITORY

NUM_SERVERS = 3
NUM_CALLERS = 6


@pytest.fixture(autouse=True)
def _nginx() -> None:
    require_nginx()


class TestPolicy:
    """Servers that answer as a test says."""

    @pytest.fixture
    def servers(self) -> Iterator[list[FileServer]]:
        with contextlib.ExitStack() as stack:
            yield [stack.enter_context(file_server({})) for _ in range(NUM_SERVERS)]

    @pytest.fixture
    def proxy(self, servers: list[FileServer], tmp_path: Path) -> Iterator[Proxy]:
        hosts = [server.url.removeprefix("http://") for server in servers]
        with running_proxy(tmp_path, hosts, MAX_BODY_BYTES="2000000") as started:
            yield started

    @pytest.fixture
    def client(self, proxy: Proxy) -> Iterator[httpx.Client]:
        with httpx.Client(base_url=proxy.url, timeout=60, trust_env=False) as connected:
            yield connected

    def test_who_is_not_ready_is_passed_over(self, servers: list[FileServer], client: httpx.Client) -> None:
        """503 of one or two is never seen while one answers."""
        for number, server in enumerate(servers):
            server.answers["/health/ready"] = Answer(status=200 if number == 2 else 503)
        assert {client.get("/health/ready").status_code for _ in range(12)} == {200}
        assert len(servers[2].requests) == 12

    def test_what_all_refuse_is_told_and_harms_nobody(self, servers: list[FileServer], client: httpx.Client) -> None:
        """503 of all is passed on as it is, and other requests find every server as before."""
        for server in servers:
            server.answers = {"/missing": Answer(b'{"error": {"code": "model_file"}}', 503), "/": Answer(b"page")}
        for _ in range(5):
            answer = client.get("/missing")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_file")
            assert client.get("/").text == "page"
        for server in servers:
            assert "/" in server.requests

    @pytest.mark.parametrize("status", [400, 413, 422, 429, 500, 504])
    def test_other_answers_are_passed_on(self, servers: list[FileServer], client: httpx.Client, status: int) -> None:
        """A full fleet is not asked three times over, and what failed for its own sake is not tried again."""
        for server in servers:
            server.answers["/"] = Answer(b"as it came", status)
        answer = client.get("/")
        assert (answer.status_code, answer.text) == (status, "as it came")
        assert sum(len(server.requests) for server in servers) == 1

    @pytest.mark.parametrize(
        ("path", "num_tries"),
        [
            ("/extract", NUM_SERVERS),
            ("/v1/collections/c/search", NUM_SERVERS),
            ("/v1/collections/c/persons/p/faces", 1),
            ("/v1/collections/c/persons", 1),
            ("/api/v1/recognition/faces?subject=p", 1),
        ],
    )
    def test_what_may_have_stored_a_face_is_not_sent_again(self, tmp_path: Path, path: str, num_tries: int) -> None:
        """All servers break the connection once they have the request; all else is sent to each of them."""
        with contextlib.ExitStack() as stack:
            broken = [stack.enter_context(scripted_server([Scripted(is_broken=True)])) for _ in range(NUM_SERVERS)]
            hosts = [server.url.removeprefix("http://") for server in broken]
            proxy = stack.enter_context(running_proxy(tmp_path, hosts))
            answer = httpx.post(f"{proxy.url}{path}", content=b"{}", trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_server")
        assert sum(len(server.seen) for server in broken) == num_tries

    def test_what_was_refused_for_now_is_sent_to_another(self, tmp_path: Path) -> None:
        """Also what adds a face: nothing is stored with a 503, as one that drains answers."""
        path = "/v1/collections/c/persons/p/faces"
        with contextlib.ExitStack() as stack:
            drains = stack.enter_context(scripted_server([envelope(503, "shutting_down")]))
            serves = stack.enter_context(scripted_server([Scripted(body=b"stored")]))
            hosts = [server.url.removeprefix("http://") for server in (drains, serves)]
            proxy = stack.enter_context(running_proxy(tmp_path, hosts))
            for _ in range(4):
                assert httpx.post(f"{proxy.url}{path}", content=b"{}", trust_env=False).text == "stored"
        assert len(serves.seen) == 4

    def test_nobody_there_is_said_in_our_words(self, tmp_path: Path) -> None:
        """No server listens: the envelope, when to come back, and the caller's request id."""
        hosts = [f"127.0.0.1:{free_port()}" for _ in range(NUM_SERVERS)]
        with running_proxy(tmp_path, hosts) as proxy, httpx.Client(base_url=proxy.url, trust_env=False) as client:
            for _ in range(3):
                answer = client.post("/extract", content=b"{}", headers={"x-request-id": "mine-1"})
                assert answer.status_code == 503
                assert answer.json()["error"]["code"] == "no_server"
                assert answer.json()["request_id"] == answer.headers["x-request-id"] == "mine-1"
                assert int(answer.headers["retry-after"]) >= 1

    def test_an_id_that_is_no_id_does_not_reach_an_answer(self, tmp_path: Path) -> None:
        """What a client writes there cannot break the JSON."""
        with running_proxy(tmp_path, [f"127.0.0.1:{free_port()}"]) as proxy:
            answer = httpx.get(proxy.url, headers={"x-request-id": 'a", "b": "'}, trust_env=False)
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert answer.json().keys() == {"error", "request_id"}

    def test_long_heads_pass(self, servers: list[FileServer], client: httpx.Client) -> None:
        """A header and a URL longer than nginx takes by itself."""
        for server in servers:
            server.answers["/"] = Answer()
        assert client.get("/", headers={"authorization": "Bearer " + "k" * 30_000}).status_code == 200
        assert client.get("/" + "p" * 30_000).status_code == 404

    def test_the_longest_body_passes_and_a_longer_one_does_not(self, client: httpx.Client) -> None:
        """The limit is jetface's own: these servers know no POST and answer 501."""
        assert client.post("/extract", content=bytes(2_000_000)).status_code == 501
        assert client.post("/extract", content=bytes(2_000_001)).status_code == 413


def test_defaults_are_those_of_the_service() -> None:
    """What a container is not told is what jetface does by itself; nothing of the template is left open."""
    text = render(["a:1", "b:2"])
    assert "server a:1 max_fails=1 fail_timeout=5s; server b:2" in text
    assert "client_max_body_size 67108864;" in text
    assert "proxy_read_timeout 36s;" in text
    assert "${" not in "".join(line for line in text.splitlines() if not line.startswith("#"))
    assert "proxy_read_timeout 66s;" in render(["a:1"], REQUEST_TIMEOUT_S="60.5")


def test_the_page_names_every_variable_of_the_template() -> None:
    """Its command for nginx without Docker leaves none open and fills in nothing that is nginx's own."""
    template = (NGINX_FOLDER / "jetface.conf.template").read_text(encoding="utf-8")
    (command,) = re.findall(r"envsubst '([^']*)'", (REPOSITORY / "docs/fleet.md").read_text(encoding="utf-8"))
    assert {f"${name}" for name in re.findall(r"\$\{([A-Z_]+)\}", template)} == set(command.split())


def has_unread_bytes(port: int) -> bool:
    """Whether a connection to `port` of loopback holds bytes that its owner has not read."""
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        _, local, _, _, queues, *_ = line.split()
        if int(local.split(":")[1], 16) == port and int(queues.split(":")[1], 16) > 0:
            return True
    return False


def test_no_request_is_lost_when_one_is_killed_and_one_drained(tmp_path: Path) -> None:
    """Three services under load: one dies by SIGKILL with requests unanswered, one is told to stop, one comes back."""
    ports = [free_port() for _ in range(NUM_SERVERS)]

    def start(port: int) -> contextlib.AbstractContextManager[Server]:
        variables = {
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "MODELS_DIR": str(tmp_path / "models"),
            "MODEL_DOWNLOAD": "0",
            "MODEL_PRELOAD": "1",
            "DET_MODEL": "starter_det",
            "REC_MODEL": "starter_rec",
            "BACKEND": "onnxruntime",
            "CPU_THREADS": "1",
            "REQUEST_TIMEOUT_S": str(PATIENCE_S),
            "SHUTDOWN_GRACE_S": str(PATIENCE_S),
        }
        return running(["jetface", "serve"], port, tmp_path / f"server-{port}.log", service_environ(variables))

    with contextlib.ExitStack() as stack:
        killed, drained, kept = (stack.enter_context(start(port)) for port in ports)
        for server in (killed, drained, kept):
            server.wait_until_ready(PATIENCE_S)
        proxy = stack.enter_context(running_proxy(tmp_path, [f"127.0.0.1:{port}" for port in ports]))
        with Callers(proxy.url, NUM_CALLERS) as callers:
            wait_until(lambda: all(f":{port} 200" in "\n".join(proxy.choices()) for port in ports), "three served")

            # Halted while idle: what it is sent from now on is certain to be unanswered when it dies.
            with callers.pausing():
                wait_until(lambda: num_in_flight(killed) == 0, "nothing in flight")
                killed.process.send_signal(signal.SIGSTOP)
            wait_until(lambda: has_unread_bytes(ports[0]), "a request waits for the one that is halted")
            os.killpg(killed.process.pid, signal.SIGKILL)
            callers.wait_for_more(20)

            # A request whose body has not come keeps the drain open until the test is done with it.
            with callers.pausing():
                wait_until(lambda: num_in_flight(drained) == 0, "nothing in flight")
                finish = stack.enter_context(slow_request(drained))
                wait_until(lambda: num_in_flight(drained, "received") == 1, "the slow request has begun")
            drained.process.send_signal(signal.SIGTERM)
            drained.wait_until_logged("draining", PATIENCE_S)
            wait_until(
                lambda: any(f":{ports[1]}" in line and " 503" in line for line in proxy.choices()),
                "the one that drains is asked and refuses",
            )
            assert finish() == 200
            assert drained.process.wait(PATIENCE_S) == 0
            callers.wait_for_more(20)

            stack.enter_context(start(ports[0]))
            wait_until(
                lambda: any(line.endswith(f"127.0.0.1:{ports[0]} 200") for line in proxy.choices()[-20:]),
                "the one that came back is asked again",
            )
    assert set(callers.statuses) == {200}
    assert callers.num_faces == [1] * len(callers.statuses)
    asked_twice = [line for line in proxy.choices() if line.startswith(f"200 127.0.0.1:{ports[0]},")]
    assert asked_twice, "a request of the one that was killed was answered by another"


def num_in_flight(server: Server, stage: str = "in_flight") -> int:
    """Requests a server is answering now, or those `received`, whose bodies still come."""
    text = httpx.get(f"{server.url}/metrics", timeout=60, trust_env=False).text
    (line,) = (line for line in text.splitlines() if line.startswith(f"jetface_requests_{stage} "))
    return int(float(line.split()[1]))


@contextlib.contextmanager
def slow_request(server: Server) -> Iterator[Callable[[], int]]:
    """Begin a request directly at a server; what is yielded sends the rest and returns the status."""
    portrait = encode(draw_portrait(PEOPLE[1]), ".jpg")
    rest = threading.Event()
    statuses: list[int] = []

    def body() -> Iterator[bytes]:
        yield portrait[:1000]
        rest.wait(PATIENCE_S)
        yield portrait[1000:]

    def ask() -> None:
        headers = {"content-type": "image/jpeg"}
        answer = httpx.post(f"{server.url}/extract", content=body(), headers=headers, timeout=60, trust_env=False)
        statuses.append(answer.status_code)

    def finish() -> int:
        rest.set()
        thread.join(PATIENCE_S)
        return statuses[0]

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield finish
    finally:
        rest.set()
        thread.join()

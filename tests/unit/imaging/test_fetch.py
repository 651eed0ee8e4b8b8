"""Fetching pictures, from real servers on this machine that do not behave."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address

import pytest
import trustme
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jetface.errors import DeadlineExceededError, ServiceError, UrlRefusedError
from jetface.imaging.remote import MAX_HEADERS, MAX_REDIRECTS, Address, FetchLimits, HostPolicy, UrlFetcher
from jetface.imaging.sources import RemotePicture

BODY = b"\x89PNG body"
LIMITS = FetchLimits(max_bytes=1000, timeout_s=1.0, silence_s=0.5)
LOOPBACK = HostPolicy.listed(["127.0.0.1", "*.test"])
Answer = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


def in_s(seconds: float = 30.0) -> float:
    return asyncio.get_running_loop().time() + seconds


def response(body: bytes = BODY, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return response(b"", f"Location: {location}", status=status)


@dataclass
class Server:
    """A server of raw bytes; answers by path, and remembers what it was sent."""

    port: int = 0
    answers: dict[str, bytes | Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    num_connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer requests until the other side leaves."""
        self.num_connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(head)
                answer = self.answers[head.split(" ")[1]]
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(writer, head)
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        """Return a URL of this server."""
        return f"http://{host}:{self.port}{path}"

    def sent(self, header: str) -> list[str | None]:
        """Return the value of a header, for each request."""
        found = []
        for head in self.requests:
            lines = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
            found.append({name.lower(): value for name, value in lines.items()}.get(header))
        return found


@asynccontextmanager
async def running_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    """Run a server on a free port."""
    server = Server()
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    """Return a server with one picture at `/ok`."""
    async with running_server() as running:
        running.answers["/ok"] = response()
        yield running


async def to_loopback(_host: str, _port: int) -> list[Address]:
    return [IPv4Address("127.0.0.1")]


@pytest.fixture
async def fetcher() -> AsyncIterator[UrlFetcher]:
    """Return a fetcher that may reach this machine; names below `.test` lead to it."""
    made = UrlFetcher(LOOPBACK, limits=LIMITS, resolver=to_loopback)
    yield made
    await made.aclose()


class TestPlain:
    """What works."""

    async def test_a_picture_is_fetched(self, fetcher: UrlFetcher, server: Server) -> None:
        assert await fetcher.fetch(RemotePicture(server.url("/ok")), deadline=in_s()) == BODY

    async def test_a_name_is_sent_though_the_address_is_pinned(self, fetcher: UrlFetcher, server: Server) -> None:
        await fetcher.fetch(RemotePicture(server.url("/ok", "pictures.test")), deadline=in_s())
        assert server.sent("host") == [f"pictures.test:{server.port}"]

    async def test_path_and_query_arrive_as_written(self, fetcher: UrlFetcher, server: Server) -> None:
        server.answers["/a%20b?x=1&y=%2F"] = response()
        url = server.url("/a%20b?x=1&y=%2F#part")
        assert await fetcher.fetch(RemotePicture(url), deadline=in_s()) == BODY

    async def test_connections_are_used_again(self, fetcher: UrlFetcher, server: Server) -> None:
        for _ in range(3):
            await fetcher.fetch(RemotePicture(server.url("/ok")), deadline=in_s())
        assert server.num_connections == 1

    async def test_a_chunked_body_is_put_together(self, fetcher: UrlFetcher, server: Server) -> None:
        server.answers["/"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s()) == b"abcde"

    async def test_a_url_is_not_taken_from_the_environment(
        self, fetcher: UrlFetcher, server: Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A proxy would resolve the name again, elsewhere."""
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        assert await fetcher.fetch(RemotePicture(server.url("/ok")), deadline=in_s()) == BODY


class TestHeaders:
    """What the caller may send along."""

    async def test_the_callers_are_sent_and_the_transports_are_not(self, fetcher: UrlFetcher, server: Server) -> None:
        headers = {
            "Authorization": "Bearer x", "X-Token": "t", "User-Agent": "me", "Host": "evil", "Accept-Encoding": "gzip",
            "Content-Length": "5", "Transfer-Encoding": "chunked", "Proxy-Authorization": "p", "Connection": "close",
        }  # fmt: skip
        await fetcher.fetch(RemotePicture(server.url("/ok"), headers), deadline=in_s())
        assert [server.sent(name)[0] for name in ("authorization", "x-token", "user-agent")] == ["Bearer x", "t", "me"]
        assert server.sent("host") == [f"127.0.0.1:{server.port}"]
        assert server.sent("accept-encoding") == ["identity"]
        for name in ("content-length", "transfer-encoding", "proxy-authorization", "connection"):
            assert server.sent(name) == [None]

    @pytest.mark.parametrize(
        "headers",
        [
            {"A\r\nB": "x"},
            {"A": "x\r\nHost: evil"},
            {"": "x"},
            {"A b": "x"},
            {"A": "ü"},
            {"A": "\0"},
            {"A": "x" * 9000},
        ],
    )
    async def test_what_could_break_a_request_is_refused(
        self, fetcher: UrlFetcher, server: Server, headers: dict[str, str]
    ) -> None:
        with pytest.raises(UrlRefusedError, match="header"):
            await fetcher.fetch(RemotePicture(server.url("/ok"), headers), deadline=in_s())
        assert server.requests == []

    async def test_too_many_are_refused(self, fetcher: UrlFetcher, server: Server) -> None:
        headers = {f"x-{number}": "" for number in range(MAX_HEADERS + 1)}
        with pytest.raises(UrlRefusedError, match="too many headers"):
            await fetcher.fetch(RemotePicture(server.url("/ok"), headers), deadline=in_s())


class TestRedirects:
    """Every hop is judged like the first."""

    @pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent"])
    async def test_they_are_followed(self, fetcher: UrlFetcher, server: Server, status: str) -> None:
        server.answers["/from"] = redirect("/ok", status)
        assert await fetcher.fetch(RemotePicture(server.url("/from")), deadline=in_s()) == BODY

    async def test_there_is_an_end_to_them(self, fetcher: UrlFetcher, server: Server) -> None:
        server.answers["/loop"] = redirect("/loop")
        with pytest.raises(UrlRefusedError, match="redirects more than 5 times"):
            await fetcher.fetch(RemotePicture(server.url("/loop")), deadline=in_s())
        assert len(server.requests) == MAX_REDIRECTS + 1

    async def test_the_callers_headers_do_not_leave_the_first_host(self, fetcher: UrlFetcher, server: Server) -> None:
        """Another name, or another port of the same host, is another host."""
        async with running_server() as other:
            other.answers["/ok"] = server.answers["/home"] = response()
            server.answers["/there"] = redirect(other.url("/ok"))
            server.answers["/here"] = redirect("/home")
            server.answers["/name"] = redirect(server.url("/home", "other.test"))
            headers = {"authorization": "Bearer x", "x-api-key": "k", "cookie": "c"}
            for path in ("/there", "/here", "/name"):
                await fetcher.fetch(RemotePicture(server.url(path), headers), deadline=in_s())
            for name, value in headers.items():
                assert other.sent(name) == [None]
                assert server.sent(name) == [value, value, value, value, None]

    @pytest.mark.parametrize(
        "location",
        ["ftp://127.0.0.1/", "file:///etc/passwd", "http://", "http://[", "//", "http://u:p@127.0.0.1/", "\xff",
         "/" + "x" * 9000],
    )  # fmt: skip
    async def test_to_what_is_no_http_url_they_are_refused(
        self, fetcher: UrlFetcher, server: Server, location: str
    ) -> None:
        server.answers["/from"] = redirect("X").replace(b"X", location.encode("latin-1"))
        with pytest.raises(UrlRefusedError):
            await fetcher.fetch(RemotePicture(server.url("/from")), deadline=in_s())

    async def test_without_a_place_they_are_a_status_like_others(self, fetcher: UrlFetcher, server: Server) -> None:
        server.answers["/from"] = response(status="302 Found")
        with pytest.raises(UrlRefusedError, match="status 302"):
            await fetcher.fetch(RemotePicture(server.url("/from")), deadline=in_s())


class TestAddresses:
    """Nothing private is reached, by whatever way."""

    @pytest.mark.parametrize(
        "host",
        ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "localhost", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0",
         "169.254.169.254", "[fe80::1]"],
    )  # fmt: skip
    async def test_private_hosts_are_refused_in_every_spelling(self, server: Server, host: str) -> None:
        fetcher = UrlFetcher(HostPolicy(), limits=LIMITS)
        with pytest.raises(UrlRefusedError, match=r"^The URL's host cannot be reached from here\.$"):
            await fetcher.fetch(RemotePicture(server.url("/ok", host)), deadline=in_s())
        await fetcher.aclose()
        assert server.num_connections == 0

    async def test_refused_unknown_and_closed_sound_the_same(self, server: Server) -> None:
        """Else one could map the network behind us."""

        async def resolver(host: str, _port: int) -> list[Address]:
            if host == "unknown.test":
                raise OSError(host)
            return [IPv4Address("10.0.0.1" if host == "private.test" else "127.0.0.1")]

        fetcher = UrlFetcher(LOOPBACK, limits=LIMITS, resolver=resolver)
        messages = set()
        for url in (server.url("/ok", "unknown.test"), server.url("/ok", "private.test"), "http://closed.test:1/"):
            with pytest.raises(UrlRefusedError) as error:
                await fetcher.fetch(RemotePicture(url), deadline=in_s())
            messages.add(error.value.message)
        await fetcher.aclose()
        assert messages == {"The URL's host cannot be reached from here."}

    async def test_a_redirect_to_a_private_address_is_refused(self, server: Server) -> None:
        """The allowed host is ours; what it points at is not on the list."""
        async with running_server() as inner:
            inner.answers["/ok"] = response()
            server.answers["/in"] = redirect(inner.url("/ok", "127.0.0.2"))
            server.answers["/name"] = redirect(inner.url("/ok", "inner.test"))

            async def resolver(host: str, _port: int) -> list[Address]:
                return [IPv4Address("127.0.0.2" if host == "inner.test" else "127.0.0.1")]

            policy = HostPolicy(None, HostPolicy.listed(["127.0.0.1"]).networks)
            fetcher = UrlFetcher(policy, limits=LIMITS, resolver=resolver)
            for path in ("/name",):
                with pytest.raises(UrlRefusedError, match="cannot be reached"):
                    await fetcher.fetch(RemotePicture(server.url(path)), deadline=in_s())
            await fetcher.aclose()
            assert inner.num_connections == 0

    async def test_a_redirect_to_a_host_that_is_not_listed_is_refused(
        self, fetcher: UrlFetcher, server: Server
    ) -> None:
        server.answers["/out"] = redirect("http://elsewhere.example/")
        with pytest.raises(UrlRefusedError, match="not on the list"):
            await fetcher.fetch(RemotePicture(server.url("/out")), deadline=in_s())

    async def test_a_name_that_changes_its_mind_gains_nothing(self, server: Server) -> None:
        """Rebinding: the first answer is public, the second is us. Each connection goes where its own check went."""
        asked: list[str] = []

        async def rebinding(host: str, _port: int) -> list[Address]:
            asked.append(host)
            return [IPv4Address("192.0.2.1" if len(asked) == 1 else "127.0.0.1")]

        checked: list[Address] = []

        class Recording(HostPolicy):
            def allows_address(self, address: Address) -> bool:
                checked.append(address)
                return address == IPv4Address("192.0.2.1")

        fetcher = UrlFetcher(Recording(), limits=replace(LIMITS, silence_s=0.1), resolver=rebinding)
        for _ in range(2):
            with pytest.raises(UrlRefusedError, match="cannot be reached"):
                await fetcher.fetch(RemotePicture(server.url("/ok", "rebind.test")), deadline=in_s())
        await fetcher.aclose()
        assert checked == [IPv4Address("192.0.2.1"), IPv4Address("127.0.0.1")]
        assert asked == ["rebind.test"] * 2, "one question for each connection"
        assert server.num_connections == 0

    @pytest.mark.parametrize(
        "url",
        ["", "x", "http://", "http:///a", "ftp://a.test/", "file:///etc/passwd", "gopher://a.test/", "http://[::1",
         "http://a.test:99999/", "http://user:secret@a.test/", "http://a b/", "HTTP", "javascript:1", "http://\0/",
         "http://a.test/" + "x" * 9000],
    )  # fmt: skip
    async def test_what_is_no_plain_http_url_is_refused(self, fetcher: UrlFetcher, url: str) -> None:
        with pytest.raises(UrlRefusedError) as error:
            await fetcher.fetch(RemotePicture(url), deadline=in_s())
        assert "secret" not in error.value.message

    async def test_a_host_that_is_not_listed_is_not_even_resolved(self, server: Server) -> None:
        async def resolver(_host: str, _port: int) -> list[Address]:
            raise AssertionError

        fetcher = UrlFetcher(HostPolicy.listed(["a.test"]), limits=LIMITS, resolver=resolver)
        with pytest.raises(UrlRefusedError, match="not on the list"):
            await fetcher.fetch(RemotePicture(server.url("/ok")), deadline=in_s())
        await fetcher.aclose()


class TestLimits:
    """Servers that drip, lie and do not stop."""

    async def test_a_declared_length_above_the_limit_is_refused_before_the_body(
        self, fetcher: UrlFetcher, server: Server
    ) -> None:
        server.answers["/"] = response(b"", length=1001)
        with pytest.raises(UrlRefusedError, match="longer than 1000 bytes"):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())

    async def test_a_body_without_end_is_cut(self, fetcher: UrlFetcher, server: Server) -> None:
        async def endless(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(bytes(500))
                await writer.drain()

        server.answers["/"] = endless
        with pytest.raises(UrlRefusedError, match="longer than 1000 bytes"):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())

    @pytest.mark.parametrize(
        ("head", "piece"),
        [
            (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
            (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        ],
        ids=["100 Continue", "chunks of a byte"],
    )
    async def test_what_is_mostly_not_the_file_is_cut(self, server: Server, head: bytes, piece: bytes) -> None:
        """Long before the time limit, with little of it read."""
        num_taken = 0

        async def endless(writer: asyncio.StreamWriter, _head: str) -> None:
            nonlocal num_taken
            writer.write(head)
            while True:
                writer.write(piece * 1000)
                await writer.drain()
                num_taken += 1000 * len(piece)

        server.answers["/"] = endless
        async with contextlib.aclosing(UrlFetcher(HostPolicy.listed(["127.0.0.1"]))) as fetcher:
            with pytest.raises(UrlRefusedError, match="too little of the picture"):
                await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())
        assert num_taken < 2**25  # what the system's buffers hold, too

    async def test_a_file_in_chunks_of_a_kilobyte_is_taken(self, server: Server) -> None:
        body = bytes(range(256)) * 4

        async def chunked(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write((b"%x\r\n%s\r\n" % (len(body), body)) * 3000 + b"0\r\n\r\n")
            await writer.drain()

        server.answers["/"] = chunked
        async with contextlib.aclosing(UrlFetcher(HostPolicy.listed(["127.0.0.1"]))) as fetcher:
            assert await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s()) == body * 3000

    async def test_a_length_that_promised_more_is_an_error(self, fetcher: UrlFetcher, server: Server) -> None:
        async def short(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(response(length=500))

        server.answers["/"] = short
        with pytest.raises(UrlRefusedError, match="broke the rules"):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())

    async def test_a_length_that_promised_less_gives_that_much(self, fetcher: UrlFetcher, server: Server) -> None:
        async def long(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(response(BODY + bytes(5000), length=len(BODY)))

        server.answers["/"] = long
        assert await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s()) == BODY

    async def test_a_drip_is_cut_at_the_time_limit(self, fetcher: UrlFetcher, server: Server) -> None:
        """No pause is too long, the whole is."""

        async def drip(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n")
            for _ in range(900):
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)

        server.answers["/"] = drip
        began = asyncio.get_running_loop().time()
        with pytest.raises(UrlRefusedError, match="did not arrive in time"):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())
        assert asyncio.get_running_loop().time() - began < 2

    async def test_silence_is_cut(self, fetcher: UrlFetcher, server: Server) -> None:
        async def silent(_writer: asyncio.StreamWriter, _head: str) -> None:
            await asyncio.sleep(2)

        server.answers["/"] = silent
        with pytest.raises(UrlRefusedError, match="did not arrive in time"):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())

    async def test_the_requests_own_deadline_is_told_apart(self, fetcher: UrlFetcher, server: Server) -> None:
        async def silent(_writer: asyncio.StreamWriter, _head: str) -> None:
            await asyncio.sleep(2)

        server.answers["/"] = silent
        with pytest.raises(DeadlineExceededError):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s(0.1))
        with pytest.raises(DeadlineExceededError):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s(-1))

    async def test_a_packed_body_is_refused(self, fetcher: UrlFetcher, server: Server) -> None:
        """A few bytes may unpack to any number."""
        server.answers["/"] = response(BODY, "Content-Encoding: gzip")
        with pytest.raises(UrlRefusedError, match="packed"):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())

    @pytest.mark.parametrize("status", ["404 Not Found", "500 Error", "204 No Content", "206 Partial", "304 Same"])
    async def test_other_statuses_are_told(self, fetcher: UrlFetcher, server: Server, status: str) -> None:
        async def answer(writer: asyncio.StreamWriter, _head: str) -> None:
            writer.write(response(b"", status=status))

        server.answers["/"] = answer
        with pytest.raises(UrlRefusedError, match=f"status {status[:3]}"):
            await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(junk=st.binary(max_size=200), start=st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 302 X\r\n"]))
    def test_junk_gives_bytes_or_our_errors(self, junk: bytes, start: bytes) -> None:
        async def run() -> None:
            async def answer(writer: asyncio.StreamWriter, _head: str) -> None:
                writer.write(start + junk)

            async with running_server() as server:
                server.answers["/"] = answer
                fetcher = UrlFetcher(LOOPBACK, limits=LIMITS, tls=ssl.create_default_context())
                try:
                    assert len(await fetcher.fetch(RemotePicture(server.url("/")), deadline=in_s())) <= 1000
                except ServiceError:
                    return
                finally:
                    await fetcher.aclose()

        asyncio.run(run())


class TestTls:
    """Servers are verified by the name that was asked for."""

    async def test_a_server_is_verified(self) -> None:
        authority, other_authority = trustme.CA(), trustme.CA()
        certificate = authority.issue_cert("pictures.test")
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(server_tls)
        async with running_server(server_tls) as server:
            server.answers["/ok"] = response()
            for trusted, host, is_fine in (
                (authority, "pictures.test", True),
                (authority, "other.test", False),
                (other_authority, "pictures.test", False),
                (None, "pictures.test", False),
            ):
                tls = None if trusted is None else ssl.create_default_context()
                if trusted is not None and tls is not None:
                    trusted.configure_trust(tls)
                fetcher = UrlFetcher(LOOPBACK, limits=LIMITS, resolver=to_loopback, tls=tls)
                picture = RemotePicture(server.url("/ok", host).replace("http:", "https:"))
                if is_fine:
                    assert await fetcher.fetch(picture, deadline=in_s()) == BODY
                else:
                    with pytest.raises(UrlRefusedError, match="cannot be reached"):
                        await fetcher.fetch(picture, deadline=in_s())
                await fetcher.aclose()

"""What a body costs that is meant to cost: bodies of every kind and shape that are refused, and what that took.

The whole application over an extractor that does nothing, called as a server calls it, a body in pieces of 256 KiB. For
each shape: the CPU time of all threads from the head to the answer, least of the rounds, beyond what the same bytes
take to be read as a picture: no less than the time that the interpreter's lock was held to understand them. And the
most memory that was held meanwhile, by `tracemalloc`, the body included. To hold for N bytes: 5 ms, 4 MiB + 4 N.
Run with `python -m tests.bench.bombs`; a shape that costs more ends it with exit code 1.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass

import click
import ormsgpack
import structlog

from jetface.api.requests import RequestLimits
from tests.support.asgi import RawRequest
from tests.support.fakes import Harness

PIECE_BYTES = 2**18
MOST_MS = 5.0
JSON, MSGPACK, FORM = "application/json", "application/msgpack", "multipart/form-data; boundary=b"


@dataclass(frozen=True, slots=True)
class Bomb:
    """A shape of body."""

    content_type: str
    make: Callable[[int], bytes]
    """Takes about how many bytes it is to have."""
    path: str = "/extract"
    query: bytes = b""


def _json(before: str, unit: str, after: str, path: str = "/extract") -> Bomb:
    """Return `unit` again and again in a list, object or text."""
    head, tail = before.encode(), after.encode()

    def make(num_bytes: int) -> bytes:
        num_units = max(1, (num_bytes - len(head) - len(tail)) // (len(unit.encode()) + 1))
        return head + b",".join([unit.encode()] * num_units) + tail

    return Bomb(JSON, make, path)


def _text(before: str, unit: str, after: str, path: str = "/extract") -> Bomb:
    return Bomb(JSON, lambda n: before.encode() + unit.encode() * (n // len(unit.encode())) + after.encode(), path)


def _keys(before: str, unit: str, after: str) -> Bomb:
    """Return an object of numbered keys."""

    def make(num_bytes: int) -> bytes:
        num_units = num_bytes // len(unit % 1_000_000)
        return (before + ",".join(unit % number for number in range(1_000_000, 1_000_000 + num_units)) + after).encode()

    return Bomb(JSON, make)


def _msgpack(before: bytes, unit: bytes, *, path: str = "/extract", entries_bytes: int | None = None) -> Bomb:
    """Return `before`, a list of as many `unit` as fit; or, without a length of its own, just those."""

    def make(num_bytes: int) -> bytes:
        num_units = num_bytes // len(unit)
        head = b"" if entries_bytes is None else b"\xdd" + num_units.to_bytes(entries_bytes, "big")
        return before + head + unit * num_units

    return Bomb(MSGPACK, make, path)


def _form(unit: bytes, *, before: bytes = b"", after: bytes = b"", path: str = "/extract") -> Bomb:
    return Bomb(FORM, lambda n: before + unit * max(1, n // len(unit)) + after + b"\r\n--b--\r\n", path)


_DATA = b"\x81\xa6images\x81\xa4data"
_URLS = b"\x81\xa6images\x81\xa4urls"
_WITH = b"\x82\xa6images\x81\xa4data\x90"
_PART = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
_FILE = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
_IMAGES = '{"images":{"data":[""]},'

BOMBS: dict[str, Bomb] = {
    "data of numbers": _json('{"images":{"data":[', "1", "]}}"),
    "data of nulls": _json('{"images":{"data":[', "null", "]}}"),
    "data of empty texts": _json('{"images":{"data":[', '""', "]}}"),
    "data of short texts": _json('{"images":{"data":[', '"QUJD"', "]}}"),
    "data of empty objects": _json('{"images":{"data":[', "{}", "]}}"),
    "data of objects": _json('{"images":{"data":[', '{"a":1}', "]}}"),
    "data of lists of lists": _json('{"images":{"data":[', "[[]]", "]}}"),
    "data of markers": _json('{"images":{"data":[', '{"":0}', "]}}"),
    "urls of numbers": _json('{"images":{"urls":[', "1", "]}}"),
    "urls of empty texts": _json('{"images":{"urls":[', '""', "]}}"),
    "urls, each too long": _json('{"images":{"urls":[', '"' + "a" * 9000 + '"', "]}}"),
    "others of numbers": _json(_IMAGES + '"others":{"data":[', "1", "]}}", "/compare"),
    "others of empty texts": _json(_IMAGES + '"others":{"data":[', '""', "]}}", "/compare"),
    "fields of numbers": _json(_IMAGES + '"fields":[', "1", "]}"),
    "fields of wrong names": _json(_IMAGES + '"fields":[', '"x"', "]}"),
    "fields of one name": _json(_IMAGES + '"fields":[', '"bbox"', '],"min_quality":7}'),
    "fields as commas": _text(_IMAGES + '"fields":"', "a,", '"}'),
    "boxes of numbers": _json(_IMAGES + '"boxes":[', "1", "]}", "/recognize"),
    "boxes of lists": _json(_IMAGES + '"boxes":[[', "[]", "]]}", "/recognize"),
    "boxes that are right but for the last": _json(_IMAGES + '"boxes":[[', "[1,2,3,4]", ",[1]]]}", "/recognize"),
    "boxes as text": _text(_IMAGES + '"boxes":"[', "1,", '1]"}', "/recognize"),
    "landmarks of numbers": _json(_IMAGES + '"landmarks":[[', "1", "]]}", "/recognize"),
    "landmarks, all but right": _json(
        _IMAGES + '"landmarks":[[', "[[1,2],[3,4],[5,6],[7,8],[9,1]]", ",[1]]]}", "/recognize"
    ),
    "headers": _keys(_IMAGES + '"img_req_headers":{', '"a%d":"1"', "}}"),
    "headers of wrong names and values": _keys(_IMAGES + '"img_req_headers":{', '"a b%d":1', "}}"),
    "unknown fields": _keys(_IMAGES, '"a%d":1', ',"min_quality":7}'),
    "one field again and again": _json(_IMAGES, '"threshold":1', ',"min_quality":7}'),
    "lists nested deep": Bomb(JSON, lambda n: b'{"images":' + b"[" * n),
    "objects nested deep": Bomb(JSON, lambda n: b'{"a":' * (n // 5)),
    "lists nested a hundred deep": _json(_IMAGES + '"x":[', "[" * 100 + "]" * 100, '],"min_quality":7}'),
    "a huge number": _text(_IMAGES + '"threshold":', "9", "}"),
    "a number with a huge exponent": _text(_IMAGES + '"threshold":1e', "9", "}"),
    "a long key": _text('{"', "a", '":1}'),
    "a long text for a number": _text(_IMAGES + '"threshold":"', "1", '"}'),
    "a long text with one wide letter": _text('{"images":{"data":["\U0001f600', "A", '"]},"min_quality":7}'),
    "texts with a wide letter each": _json(
        '{"images":{"data":["QQ=="]},"x":[', '"' + "A" * 4000 + '\U0001f600"', '],"min_quality":7}'
    ),
    "escapes of wide letters": _text(_IMAGES + '"threshold":"', "\\ud83d\\ude00", '"}'),
    "escaped quotes": _text(_IMAGES + '"threshold":"', '\\"', '"}'),
    "backslashes": _text(_IMAGES + '"threshold":"', "\\\\", '\\""}'),
    "quotes alone": _text("", '"', ""),
    "white space": _text(_IMAGES + '"threshold":', " ", "7}"),
    "no JSON": Bomb(JSON, lambda n: b"\xff" * n),
    "a good picture and a wrong option": _text('{"images":{"data":["', "QUJD", '"]},"min_quality":7}'),
    "msgpack data of nils": _msgpack(_DATA, b"\xc0", entries_bytes=4),
    "msgpack data of empty texts": _msgpack(_DATA, b"\xa0", entries_bytes=4),
    "msgpack data of empty maps": _msgpack(_DATA, b"\x80", entries_bytes=4),
    "msgpack data of empty binaries": _msgpack(_DATA, b"\xc4\x00", entries_bytes=4),
    "msgpack urls of nils": _msgpack(_URLS, b"\xc0", entries_bytes=4),
    "msgpack boxes of nils": _msgpack(_WITH + b"\xa5boxes", b"\xc0", path="/recognize", entries_bytes=4),
    "msgpack lists within lists": _msgpack(_DATA, b"\x9f", entries_bytes=None),
    "msgpack lists of small lists": _msgpack(_DATA, b"\x92\x80\x90", entries_bytes=4),
    "msgpack nested deep": _msgpack(_DATA, b"\x91", entries_bytes=None),
    "msgpack extensions": _msgpack(_DATA, b"\xd4\x01\x00", entries_bytes=4),
    "msgpack messages one after the other": _msgpack(b"", b"\xc0"),
    "msgpack with a wide letter": Bomb(
        MSGPACK,
        lambda n: ormsgpack.packb({"images": {"data": ["A" * n + "\U0001f600"]}, "min_quality": 7}),
    ),
    "form of many files": _form(_FILE),
    "form of many fields": _form(_PART % b"x" + b"1\r\n"),
    "form of one field again and again": _form(_PART % b"threshold" + b"1\r\n", before=_FILE),
    "form of empty parts": _form(b"--b\r\n\r\n\r\n"),
    "form with many part headers": _form(b"X: a\r\n", before=b"--b\r\n"),
    "form with a long part header": _form(b"a", before=b"--b\r\nX: "),
    "form with a long name": _form(b"a", before=b'--b\r\nContent-Disposition: form-data; name="'),
    "form of line ends": _form(b"\r\n", before=_FILE[:-3], after=b"\r\n" + _PART % b"min_quality" + b"7"),
    "form of half boundaries": _form(b"\r\n--", before=_FILE[:-3], after=b"\r\n" + _PART % b"min_quality" + b"7"),
    "form of dashes": _form(b"-", before=_FILE[:-3], after=b"\r\n" + _PART % b"min_quality" + b"7"),
    "form boxes of numbers": Bomb(
        FORM,
        lambda n: _FILE + _PART % b"boxes" + b"[" + b"1," * (min(n, 10**6) // 2) + b"1]\r\n--b--\r\n",
        "/recognize",
    ),
    "form fields as commas": Bomb(
        FORM, lambda n: _FILE + _PART % b"fields" + b"a," * (min(n, 10**6) // 2) + b"\r\n--b--\r\n"
    ),
    "form without an end": Bomb(FORM, lambda n: _FILE + b"x" * n),
    "query of many fields": Bomb("image/jpeg", lambda _: b"x", query=b"a&" * 32_000),
    "query of one field again and again": Bomb("image/jpeg", lambda _: b"x", query=b"threshold=1&" * 5_000),
    "query of escapes": Bomb("image/jpeg", lambda _: b"x", query=b"threshold=" + b"%41" * 21_000),
    "query boxes of numbers": Bomb("image/jpeg", lambda _: b"x", "/recognize", b"boxes=[" + b"1," * 30_000 + b"1]"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cost:
    """What the refusal of a body took."""

    num_bytes: int
    status: int
    cpu_ms: float
    read_ms: float
    """CPU time of the same bytes as a picture."""
    peak_bytes: int

    @property
    def most_bytes(self) -> int:
        """What may be held."""
        return 2**22 + 4 * self.num_bytes

    @property
    def lock_ms(self) -> float:
        """Longest time that the lock can have been held for what is beyond reading."""
        return max(0.0, self.cpu_ms - self.read_ms)

    @property
    def is_borne(self) -> bool:
        """Whether it was refused for no more than may be spent."""
        return 400 <= self.status < 500 and self.lock_ms <= MOST_MS and self.peak_bytes <= self.most_bytes


async def send(app: Harness, bomb: Bomb, body: bytes) -> int:
    """Send a body and return the status of the answer."""

    async def pieces() -> AsyncIterator[bytes]:
        view = memoryview(body)
        for start in range(0, len(body), PIECE_BYTES):
            yield bytes(view[start : start + PIECE_BYTES])
        yield b""

    headers = {"content-type": bomb.content_type, "content-length": str(len(body)), "host": "localhost"}
    request = RawRequest(pieces(), headers, bomb.path)
    request.scope["query_string"] = bomb.query
    await request.send_to(app.app)
    return request.status


async def measure(bomb: Bomb, num_bytes: int, rounds: int = 3) -> Cost:
    """Send a bomb to the application and see what its refusal takes."""
    body = bomb.make(num_bytes)
    app = Harness(limits=RequestLimits(max_body_bytes=max(len(body), 2**26)))
    least_s = {}
    try:
        for each in (Bomb("image/jpeg", bomb.make, "/detect"), bomb):
            await send(app, each, b"{}")
            spent: list[float] = []
            for _ in range(rounds):
                gc.collect()
                started = time.process_time()
                status = await send(app, each, body)
                spent.append(time.process_time() - started)
            least_s[each.content_type] = min(spent)
        gc.collect()
        tracemalloc.start()
        await send(app, bomb, body)
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    finally:
        app.pool.close()
    read_s = 0.0 if bomb.query else least_s["image/jpeg"]
    return Cost(len(body) + len(bomb.query), status, least_s[bomb.content_type] * 1e3, read_s * 1e3, peak_bytes)


@click.command()
@click.option("--mib", default=2.0, help="Length of a body.")
@click.option("--only", default="", help="Only shapes whose name has this in it.")
@click.option("--json", "as_json", is_flag=True)
def main(mib: float, only: str, as_json: bool) -> None:
    """Measure what refusing each shape of body takes."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    found = {name: asyncio.run(measure(bomb, round(mib * 2**20))) for name, bomb in BOMBS.items() if only in name}
    if as_json:
        click.echo(json.dumps({name: {**asdict(cost), "lock_ms": cost.lock_ms} for name, cost in found.items()}))
    else:
        click.echo(f"{'shape':40} {'KiB':>7} {'status':>6} {'read ms':>7} {'lock ms':>7} {'MiB':>7} {'of':>7}")
        for name, cost in found.items():
            mark = "" if cost.is_borne else "  <-- too much"
            click.echo(
                f"{name:40} {cost.num_bytes / 2**10:7.0f} {cost.status:6} {cost.read_ms:7.2f} {cost.lock_ms:7.2f} "
                f"{cost.peak_bytes / 2**20:7.2f} {cost.most_bytes / 2**20:7.2f}{mark}"
            )
    raise SystemExit(0 if all(cost.is_borne for cost in found.values()) else 1)


if __name__ == "__main__":
    main()

"""`GET /`: a page to drop a picture on, and the files it is made of."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from http import HTTPStatus
from importlib import resources

from fastapi import APIRouter, Request, Response

from jetface.errors import NotFoundError

_PACKAGE = "jetface.page"
_PLACE_OF_DIGEST = b"{assets}"
_HEAD = b'<meta charset="utf-8">'

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    # Pictures are shown from memory; crops arrive as data.
    "img-src 'self' blob: data:; media-src blob:; "
    "base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)
"""What the page may do: run its own files and talk to this service, nothing else."""

_SAFETY = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
}
_REVALIDATE = "no-cache"
_FOR_GOOD = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page."""

    content: bytes
    media_type: str


@dataclass(frozen=True, slots=True)
class Page:
    """The page and its assets, read once: serving them touches no disk, and no path of a request reaches one."""

    index: Asset
    assets: dict[str, Asset]
    """By file name."""
    digest: str
    """Changes when any asset does."""


def read_page(root_path: str = "") -> Page:
    """Read the page from the installed package.

    Args:
        root_path: Where a proxy serves the service. What the page names is found below it, whether the page's own
            address ends in a slash or not.
    """
    folder = resources.files(_PACKAGE)
    files = sorted(folder.joinpath("assets").iterdir(), key=lambda file: file.name)
    assets = {file.name: Asset(file.read_bytes(), _media_type(file.name)) for file in files}
    digest = hashlib.sha256()
    for name, asset in assets.items():
        digest.update(name.encode() + b"\0" + hashlib.sha256(asset.content).digest())
    version = digest.hexdigest()[:16]
    index = folder.joinpath("index.html").read_bytes().replace(_PLACE_OF_DIGEST, version.encode())
    if root_path:
        index = index.replace(_HEAD, b'%s\n<base href="%s/">' % (_HEAD, root_path.encode()), 1)
    return Page(index=Asset(index, "text/html; charset=utf-8"), assets=assets, digest=version)


def page_router(page: Page) -> APIRouter:
    """Return the routes. They are for people, so the API's description leaves them out."""
    router = APIRouter(include_in_schema=False)

    @router.get("/")
    async def index(request: Request) -> Response:
        """Answer with the page."""
        return _write(request, page.index, cache_control=_REVALIDATE)

    @router.get("/static/{digest}/{name}")
    async def asset(request: Request, digest: str, name: str) -> Response:
        """Answer with a file of the page; under another version's digest too, but then nobody keeps it."""
        found = page.assets.get(name)
        if found is None:
            raise NotFoundError("No such file.")
        return _write(request, found, cache_control=_FOR_GOOD if digest == page.digest else _REVALIDATE)

    return router


def _write(request: Request, asset: Asset, *, cache_control: str) -> Response:
    tag = f'"{hashlib.sha256(asset.content).hexdigest()[:32]}"'
    headers = {**_SAFETY, "cache-control": cache_control, "etag": tag}
    known = {given.strip().removeprefix("W/") for given in request.headers.get("if-none-match", "").split(",")}
    if tag in known:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(asset.content, headers=headers, media_type=asset.media_type)


def _media_type(name: str) -> str:
    """Return the type by the name's ending. A machine's own table may call scripts something that no browser runs."""
    if name.endswith(".js"):
        return "text/javascript"
    guessed, _ = mimetypes.guess_type(name)
    return guessed or "application/octet-stream"

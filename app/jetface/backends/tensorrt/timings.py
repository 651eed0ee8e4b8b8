"""The timing cache: what TensorRT measured of kernels, kept so that the next build need not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import structlog

from jetface.atomic import whole_file

_log = structlog.get_logger(__name__)

MOST_BYTES = 256 * 2**20
"""A file longer than this is no timing cache; ours have a few megabytes."""


def attach_timings(config: Any, path: Path) -> None:
    """Give a build the timings in a file. One that is missing, damaged or of another device counts as empty.

    Args:
        config: An `IBuilderConfig`.
        path: The file.
    """
    kept = b""
    try:
        if path.stat().st_size <= MOST_BYTES:
            kept = path.read_bytes()
    except OSError:
        kept = b""
    # TensorRT checks version and device by itself; what it does not take leaves the build without a cache.
    for content in (kept, b""):
        cache = config.create_timing_cache(content)
        ignore_mismatch = False
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch):
            return


def keep_timings(config: Any, path: Path) -> None:
    """Write the timings of a build to a file; one that cannot be written costs time at the next build, no more."""
    cache = config.get_timing_cache()
    if cache is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            file.write(bytes(cache.serialize()))
    except OSError as error:
        _log.warning("kernel timings are not kept", reason=error.strerror)

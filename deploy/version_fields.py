"""What versioningit, which `pyproject.toml` names, writes into `jetface/_version.py`; loaded by builds alone."""

from __future__ import annotations

from typing import Any

from versioningit.basics import basic_template_fields


def template_fields(**known: Any) -> dict[str, Any]:
    """Return the fields of the template: versioningit's own, with a `revision` where there is no git, too."""
    return {"revision": "unknown", **basic_template_fields(**known)}

"""Tests: `unit/` mirrors `app/`, `contract/` holds every backend to one suite, `e2e/` drives the started service."""

import jetface as _app  # noqa: F401 - first of all: it keeps the libraries that tests import from calling their makers

"""Tests: `unit/` mirrors `app/`, `contract/` holds every backend to one suite, `e2e/` drives the started service."""

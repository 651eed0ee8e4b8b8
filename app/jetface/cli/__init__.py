"""The jetface command."""

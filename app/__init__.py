"""jetface: face detection and recognition as an HTTP service.

The packages and modules are layers whose imports run one way; docs/architecture.md draws them, import-linter enforces
them. Importing any module of this package starts nothing, reads no file and loads no model.
"""

__version__ = "0.1.0"

"""jetface: face detection and recognition as an HTTP service.

Layers, top to bottom; imports run one way (enforced by import-linter):

    cli -> main -> api -> pipeline -> models -> batching | backends | geometry | imaging
        -> specs | metrics -> logs | domain | errors

Importing any module of this package starts nothing, reads no file and loads no model.
"""

__version__ = "0.1.0"

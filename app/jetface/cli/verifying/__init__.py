"""What `jetface verify` does, one module a step: each asks a running service and returns facts, ready for JSON.

`claims` holds what our documents say and nobody has verified yet; `report` puts facts beside claims.
"""

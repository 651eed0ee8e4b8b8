"""Steps of `deploy/jetson/verify.sh`, a module each: each asks a running service and returns facts, ready for JSON.

`claims` holds what our documents say and nobody has verified yet; `report` puts facts beside claims.
"""

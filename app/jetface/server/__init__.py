"""The HTTP server: connections, admission, request context, encoding, workers and their end."""

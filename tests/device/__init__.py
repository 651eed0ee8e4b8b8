"""Programs for a machine with an NVIDIA GPU: what tests without one cannot tell. README.md has the commands."""

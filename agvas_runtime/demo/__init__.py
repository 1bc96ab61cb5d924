"""The demonstration of `make demo`: a real server, real frames, real masks, in one command."""

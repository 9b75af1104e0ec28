"""Peers that Debian packages, each set up by the benchmark with its own configuration."""

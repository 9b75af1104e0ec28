"""Client of dataplaned: a `DataPlane` over a Unix socket."""

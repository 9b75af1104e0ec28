"""Where the bytes are: one interface, `base.Backend`, and what implements it."""

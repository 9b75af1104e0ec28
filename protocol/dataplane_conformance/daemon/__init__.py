"""The cases that judge a daemon, and the run that plays them."""

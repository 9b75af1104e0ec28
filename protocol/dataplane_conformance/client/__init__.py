"""The cases that judge a client, and the run that plays the server's side to it."""

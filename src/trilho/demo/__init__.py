"""The whole rail on one machine, with an embedded AWS."""

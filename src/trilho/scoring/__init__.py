"""Batch scoring: the service's own model over a file of any size, in bounded memory.

`rows` reads a file piece by piece, `parts` keeps what is done and puts it together, `run` is what
the verb calls. A piece becomes a part, which appears whole or not at all; a run that was killed
goes on after its last part, and the result gets its name when it is complete.
"""

from trilho.scoring.run import CHUNK, Scored, score

__all__ = ["CHUNK", "Scored", "score"]

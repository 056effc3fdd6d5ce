"""`python -m trilho.serving [serve]`: the service by itself, as the image starts it."""

import os
import sys

# One thread per process: numeric libraries read this when they are imported, and on a busy machine
# their own threads cost a hundred times what they give on rows this few.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def main() -> int:
    from trilho.serving.server import run_from_environment
    from trilho.serving.settings import USAGE

    arguments = sys.argv[1:]
    if arguments in ([], ["serve"]):
        return run_from_environment()
    help_wanted = arguments in (["-h"], ["--help"])
    print(USAGE, file=sys.stdout if help_wanted else sys.stderr)
    return 0 if help_wanted else 2


if __name__ == "__main__":
    sys.exit(main())

"""`python -m trilho.serving [serve]`: the service by itself, as the image starts it."""

import os
import sys

# One thread per process: numeric libraries read this when they are imported, and on a busy machine
# their own threads cost a hundred times what they give on rows this few. Nobody may say otherwise:
# workers are forked, and a library that has started threads does not survive that.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"


def main() -> int:
    from trilho.serving.settings import USAGE

    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        arguments = arguments[1:]
    if len(arguments) == 2 and arguments[0] == "--workers":
        os.environ["TRILHO_WORKERS"] = arguments[1]
        arguments = []
    if not arguments:
        from trilho.serving.server import run_from_environment

        return run_from_environment()
    help_wanted = arguments in (["-h"], ["--help"])
    print(USAGE, file=sys.stdout if help_wanted else sys.stderr)
    return 0 if help_wanted else 2


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # all is closed; a thread that is stuck in a write must not hold up the end

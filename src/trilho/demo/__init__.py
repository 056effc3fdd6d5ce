"""The demo: the whole rail on this machine, with no cloud account."""

from pathlib import Path

FOLDER = Path(".trilho/demo")


def run(folder: Path = FOLDER) -> None:
    """Tell the whole story; see `story.run`."""
    from trilho.demo import story

    story.run(folder)


def stop(folder: Path = FOLDER) -> None:
    """End what the demo left running; see `story.stop`."""
    from trilho.demo import story

    story.stop(folder)

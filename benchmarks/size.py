"""The size of a benchmark: its full one, or with `--small` one that shows within seconds whether it still runs."""

import argparse


def is_small(description: str | None) -> bool:
    """Whether `--small` is among the arguments."""
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="only show that it runs: the figures mean nothing")
    return bool(parser.parse_known_args()[0].small)

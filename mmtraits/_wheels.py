"""Placeholder until the hook is written."""


def install() -> None:
    """Do nothing yet."""

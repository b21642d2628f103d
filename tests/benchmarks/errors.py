"""What can be wrong with the machine or the command, in one line."""


class CannotMeasure(Exception):
    """Its text says what to install or to start."""

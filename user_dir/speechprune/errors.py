"""The one exception that means: the user, not the program, has something to change."""


class UserError(ValueError):
    """A mistake in the input, described in one line: what was wrong, where, and what to do.

    Commands print the message and exit with status 1, without a traceback.
    """

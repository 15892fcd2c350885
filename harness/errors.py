"""Errors that are answers. Apart from everything, so that the command line starts fast."""


class UserError(Exception):
    """A mistake the user can mend. Its text says what was wrong, where, and what to do.

    The command line prints it without a traceback and exits with ``exit_code``.
    """

    exit_code = 2

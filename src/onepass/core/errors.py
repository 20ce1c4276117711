"""The one exception a user is meant to see.

Everything a user can cause (a bad file, an unknown name, a base that does not fit) raises
`OnepassError` with a message that names the file, field or option, the value found, and what to do.
The command line prints it without a traceback and exits with status 2.
"""

import warnings


class OnepassError(Exception):
    """A mistake in the input, stated so that its reader can mend it."""


class OnepassWarning(UserWarning):
    """Something that a user should know and that stops nothing; shown once."""


def print_as_notes() -> None:
    """From now on print warnings as one line each, without the place in the code."""
    warnings.simplefilter("ignore", FutureWarning)  # these address programmers, not users
    warnings.formatwarning = lambda message, *_, **__: f"note: {message}\n"

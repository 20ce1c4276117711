"""The one exception a user is meant to see.

Everything a user can cause (a bad file, an unknown name, a base that does not fit) raises
`OnepassError` with a message that names the file, field or option, the value found, and what to do.
The command line prints it without a traceback and exits with status 2.
"""


class OnepassError(Exception):
    """A mistake in the input, stated so that its reader can mend it."""


class OnepassWarning(UserWarning):
    """Something that a user should know and that stops nothing; shown once."""

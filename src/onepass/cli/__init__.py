"""The command line: one module per command, named like it and imported only when it is invoked."""

import onepass.smalltown  # the corpus of that name, and below its metrics  # noqa: F401

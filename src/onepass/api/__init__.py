"""The workflows as functions: what `import onepass` offers, and what the commands call.

Each takes what people have (names, folders, objects, rows in memory), checks it before the work,
and returns an object that can be printed, saved and exported. Nothing here parses or prints.
"""

import onepass.smalltown  # the corpus of that name  # noqa: F401

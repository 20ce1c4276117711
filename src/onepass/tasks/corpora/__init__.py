"""The corpora: what the rows of each are (one file each), where rows come from, the facts of each.

Rows come from a `source` (a file, a folder, the hub, memory), a `reader` makes examples of them,
`splits` says which rows are which split, and `onepass.tasks.corpus` registers the readers by name;
`layouts` reads rows of one's own, and several corpora are `joined`. The facts of a corpus (licence,
citation, sizes, checksums) are data, in facts/NAME.yaml.
"""

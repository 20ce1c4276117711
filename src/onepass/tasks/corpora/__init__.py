"""The corpora: what each one's rows are (one file each), where rows come from, what is known of it.

Rows come from a source (a file, a folder, the hub), a kind reads them as examples, and
`onepass.tasks.corpus` registers the kinds by name. The facts of a corpus (licence, citation, sizes,
checksums) are data, in facts/NAME.yaml.
"""

"""The command line: one module per command, named like it and imported only when it is invoked."""

"""The commands behind the command line: one module each, whose `main` takes the arguments after the name."""

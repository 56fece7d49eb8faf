"""The command-line commands, one module each, whose `main` takes the arguments after the command name."""

"""The command `lm`: one small module per subcommand, dispatched by `lm.cli.main`."""

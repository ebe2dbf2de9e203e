"""The command line; typer is used only here."""

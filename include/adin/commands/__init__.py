"""The commands of ``adin``: one small module a group, each holding a typer ``app``."""

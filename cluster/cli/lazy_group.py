"""Commands that are imported when they are called, so that help needs neither torch nor Ray."""

import ast
import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperCommand, TyperGroup

from actors.errors import InvalidInputError, RunAbandonedError, RunFailedError

EXIT_CODES: dict[type[BaseException], int] = {
    RunFailedError: 1,
    InvalidInputError: 2,
    RunAbandonedError: 130,
    KeyboardInterrupt: 130,
}
"""Exit code by error: 1 for a run that started and failed, 2 for invalid input, before anything was
started, 130 for a command that a signal ended. A run that finished or stopped ends with 0."""
QUIET = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
"""Environment that keeps progress bars and hints of libraries out of a command's output."""


class LazyCommand(TyperCommand):
    """A command that is imported when it is called. Its help is read from the source.

    Args:
        target: "module:function" of a command, or "module:app" of a group of commands.
    """

    def __init__(self, name: str, target: str) -> None:
        self._module, _, self._attribute = target.partition(":")
        super().__init__(name, help=self._docstring())

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:  # noqa: ANN401
        """Import the command, which then parses its arguments."""
        command = getattr(import_module(self._module), self._attribute)
        app = command
        if not isinstance(command, typer.Typer):
            app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
            app.command(self.name)(command)
        return typer.main.get_command(app).make_context(info_name, args, *rest, **extra)

    def _docstring(self) -> str | None:
        """Return the docstring of the function; of a group, that of the module."""
        spec = find_spec(self._module)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(f"the command {self.name} has no module {self._module}")
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == self._attribute:
                return ast.get_docstring(node)
        return ast.get_docstring(tree)


class LazyGroup(TyperGroup):
    """A group of lazy commands, whose errors become one sentence and an exit code."""

    targets: Mapping[str, str] = {}
    """Name of each command to its target, see LazyCommand. Set by a subclass."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        for name, target in self.targets.items():
            self.add_command(LazyCommand(name, target), name)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401
        """Run the command; print an error that the user can correct without a traceback."""
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        try:
            return super().invoke(ctx)
        except tuple(EXIT_CODES) as error:
            text = str(error) or "interrupted"
            Console(stderr=True).print(f"[red]{escape(text)}[/]", highlight=False, soft_wrap=True)
            codes = (code for kind, code in EXIT_CODES.items() if isinstance(error, kind))
            raise typer.Exit(next(codes)) from None

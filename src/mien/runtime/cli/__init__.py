"""The `mien` command. Subcommands load when they are called, so that `mien --help` is quick.

Exit codes: 0 done; 1 done, and nothing was found (no face, no match, no such thing to list); 2 wrong
usage; 3 the input can't be used; 4 the server, its data or a model can't be used now; 5 a fault of
Mien; 130 interrupted. Results go to stdout, progress and errors to stderr.
"""

from __future__ import annotations

import importlib
import os
import sys

import click
from click.shell_completion import CompletionItem

from mien import __version__

# name: (module, attribute, what `mien --help` says), in the order of that page.
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "serve": ("mien.runtime.cli.serve", "serve", "Run the server."),
    "detect": ("mien.runtime.cli.photos", "detect", "Find the faces in photos."),
    "compare": ("mien.runtime.cli.photos", "compare", "Compare the faces of two photos."),
    "index": ("mien.runtime.cli.index", "index", "Put the faces of photos and folders into a collection."),
    "search": ("mien.runtime.cli.search", "search", "Search a collection for the faces of a photo."),
    "collections": ("mien.runtime.cli.collections", "collections", "List, make and delete collections."),
    "faces": ("mien.runtime.cli.collections", "faces", "List and delete the faces of a collection."),
    "persons": ("mien.runtime.cli.collections", "persons", "List, make and delete persons."),
    "import": ("mien.runtime.cli.index", "import_zip", "Import a zip of photos as a job."),
    "jobs": ("mien.runtime.cli.jobs", "jobs", "List, show and cancel jobs."),
    "keys": ("mien.runtime.cli.keys", "keys", "List, make and revoke API keys."),
    "models": ("mien.runtime.cli.models", "models", "List, pull, verify and choose models."),
    "evaluate": ("mien.runtime.cli.evaluate", "evaluate", "Measure the accuracy on labelled pairs."),
    "calibrate": ("mien.runtime.cli.calibrate", "calibrate", "Make a calibration table from your photos."),
    "status": ("mien.runtime.cli.status", "status", "Show what runs here and what is missing."),
    "settings": ("mien.runtime.cli.status", "settings", "Show every setting and its value."),
    "openapi": ("mien.runtime.cli.status", "openapi", "Print the API's OpenAPI document."),
    "completion": ("mien.runtime.cli.status", "completion", "Print the completion script of a shell."),
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], _COMMANDS, 1)
            hint = f" Did you mean `mien {near[0]}`?" if near else " `mien --help` lists what there is."
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        # Without the commands' modules: completion runs at every press of the tab key.
        found = [
            CompletionItem(name, help=about)
            for name, (_, _, about) in _COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return super().shell_complete(ctx, incomplete) if incomplete.startswith("-") else found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, _, about) in _COMMANDS.items()])


@click.group(
    cls=_Lazy,
    epilog="Exit codes: 0 done, 1 nothing found, 2 wrong usage, 3 input can't be used, 4 server, data or"
    " model not available, 5 a fault of Mien.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="mien")
def cli() -> None:
    """Mien: faces in, names out, on your own machine.

    With a server running, commands talk to it; without one they work on the data folder themselves.
    Commands that show something take --json.
    """


def _tell(message: str) -> None:
    from mien.runtime.cli.frame import readable

    click.echo(f"{click.style('mien:', fg='red', bold=True)} {readable(message)}", err=True)


def _asked_json(arguments: list[str]) -> bool:
    """Whether --json is among them; looked up here as a wrong usage never gets to the command."""
    return "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def _document(error: Exception, message: str) -> dict[str, object]:
    """What --json prints of an error: the API's problem document, or the code and the message."""
    from mien.kit.errors import MienError
    from mien.runtime.client import Answered

    if isinstance(error, Answered):
        return error.problem
    if isinstance(error, MienError):
        return {"code": error.code, "detail": message, **error.facts}
    code = "usage" if isinstance(error, click.UsageError) else "bad-input"
    return {"code": code if isinstance(error, click.ClickException) else "internal-error", "detail": message}


def first_of(error: BaseException) -> BaseException:
    """The error itself; of a group (of tasks that ran together) its first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _code_for(error: Exception) -> int:
    """The exit code for an error of the family."""
    from mien.kit.errors import MienError

    assert isinstance(error, MienError)
    return 3 if 400 <= error.status < 500 else 4


def main(arguments: list[str] | None = None) -> None:
    """The entry point: errors are one line on stderr, never a stack (unless MIEN_LOG_LEVEL=debug)."""
    code = 0
    given = sys.argv[1:] if arguments is None else arguments
    try:
        result = cli.main(arguments, prog_name="mien", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)  # the help page, with its usage
        code = 2
    except (click.Abort, KeyboardInterrupt):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (`mien … | head`): no words, and none at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        code = _failed(first_of(error), as_json=_asked_json(given))
    sys.exit(code)


def _failed(error: BaseException, *, as_json: bool) -> int:
    """Tell an error, on stderr and (as_json) as a document on stdout; its exit code."""
    from mien.kit.errors import MienError

    if isinstance(error, click.UsageError):
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        message, code = error.format_message(), 2
    elif isinstance(error, click.ClickException):
        message, code = error.format_message(), 3
    elif isinstance(error, MienError):
        message, code = error.message, _code_for(error)
    elif not isinstance(error, Exception) or os.environ.get("MIEN_LOG_LEVEL", "").lower() == "debug":
        raise error
    else:
        message, code = (
            (
                f"Something broke ({type(error).__name__}). Run it again with MIEN_LOG_LEVEL=debug to see"
                " where, and report it, please."
            ),
            5,
        )
    _tell(message)
    if as_json:
        from mien.runtime.cli.frame import Shown

        Shown(as_json=True, data_dir=None).json(_document(error, message))
    return code

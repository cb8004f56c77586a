"""The application, its exit codes, and the one place where errors become sentences."""

from __future__ import annotations

import atexit
import importlib.util
import inspect
import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from scrfdconv.cli.terminal import output, signals
from scrfdconv.converters.errors import CheckFailed, MissingError, ScrfdconvError

if TYPE_CHECKING:
    from scrfdconv.cli.artifacts.verbs import MakingVerb

SYSTEM = os.name
USAGE_ERROR = 2
HELP = frozenset(("-h", "--help"))
BUG = 70  # EX_SOFTWARE of sysexits.h: none of the documented codes
# Typer's own name for click's UsageError, whichever version of click Typer uses.
MAKE, PROVE, LOOK_UP, OTHER = "Make artifacts", "Prove and measure", "Look up", "Other"
PANELS = (MAKE, PROVE, LOOK_UP, OTHER)
Function = TypeVar("Function", bound=Callable[..., Any])
CommandLineError: type[Exception] = typer.BadParameter.__mro__[1]


@dataclass(frozen=True)
class Verb:
    """What the list of verbs says of one, and how its command is made when it is asked for.

    Typer reads the signature of a command for 2 ms: only the one that runs pays.
    """

    name: str
    short_help: str
    panel: str
    command: Callable[[], Any]
    bare: Callable[[], object] | None = None  # what runs without arguments, past typer


_written: dict[str, Verb] = {}  # the verbs that are written out, by name


def verb(panel: str, name: str = "", *, bare: bool = False) -> Callable[[Function], Function]:
    """Declare the verb that a function is; its first line is the short help.

    A ``bare`` one is called past typer where it has no arguments: for the first option that typer
    reads, it imports pydantic, which takes longer than looking something up.
    """

    def declare(function: Function) -> Function:
        own = name or function.__name__
        short = inspect.cleandoc(function.__doc__ or "").partition("\n")[0]
        alone = function if bare else None
        _written[own] = Verb(own, short, panel, partial(command_of, function, own), alone)
        return function

    return declare


def verbs_below(group: typer.Typer, name: str, short_help: str, panel: str) -> None:
    """Declare a verb that has verbs of its own."""
    _written[name] = Verb(name, short_help, panel, partial(typer.main.get_command, group))


def command_of(function: Callable[..., Any], name: str) -> Any:
    """The command of a function, with its options under their headings."""
    from scrfdconv.cli.artifacts.reading import spread_out

    single = typer.Typer(rich_markup_mode=None, add_completion=False)
    single.command(name, cls=Command)(spread_out(function))
    return typer.main.get_command(single)


class Command(TyperCommand):
    """A command whose help lists options under their headings."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments, then options without a heading, then one section for each heading."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                plain = "Arguments" if parameter.param_type_name == "argument" else "Options"
                heading = getattr(parameter, "rich_help_panel", None) or plain
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Arguments in upstream's order, CONFIG CHECKPOINT, get a sentence that says ours."""
        given = list(args)  # parsing empties the list
        try:
            return super().parse_args(ctx, args)
        except CommandLineError as error:
            if any("--config" in parameter.opts for parameter in self.get_params(ctx)):
                _require_our_order(ctx.command_path, given, error)
            raise


def _require_our_order(command: str, given: list[str], error: Exception) -> None:
    for config, checkpoint in pairwise(given):
        if config.endswith(".py") and not checkpoint.startswith("-"):
            raise typer.BadParameter(
                f"{config} {checkpoint}: the checkpoint is the one argument, and the config is "
                f"often not needed; type {command} {checkpoint} --config {config}"
            ) from error


class Verbs(TyperGroup):
    """Runs a verb and turns every failure into one sentence and an exit code."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **extra: Any) -> Any:
        """Parse, run, exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        signals.install()
        extra["standalone_mode"] = False
        try:
            with output.started(json="--json" in arguments and not HELP.intersection(arguments)):
                code = self._run(arguments or ["--help"], extra)
        finally:
            atexit.register(signals.ignore)
        sys.exit(code)

    def list_commands(self, ctx: Any) -> list[str]:
        """All verbs: those that make artifacts come from the declarations of formats."""
        return list(_verbs())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Make the command, only when this command is asked for."""
        found = _verb_called(cmd_name)
        return found.command() if found else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the verbs by purpose."""
        for panel in PANELS:
            rows = [(one.name, one.short_help) for one in _verbs().values() if one.panel == panel]
            if rows:
                with formatter.section(panel):
                    formatter.write_dl(rows)

    def _run(self, arguments: list[str], extra: dict[str, Any]) -> int:
        try:
            _require_supported_system()
            alone = _verb_called(arguments[0]) if len(arguments) == 1 else None
            if alone and alone.bare:
                alone.bare()
                return 0
            code = super().main(arguments, **extra)
        except ScrfdconvError as error:
            report = error.report if isinstance(error, CheckFailed) else None
            output.fail(str(error), error.exit_code, report)
            return error.exit_code
        except CommandLineError as error:
            output.fail(error.format_message(), USAGE_ERROR)  # type: ignore[attr-defined]
            return USAGE_ERROR
        except (KeyboardInterrupt, typer.Abort):
            output.fail("Interrupted; nothing half-written was left behind.", signals.INTERRUPTED)
            return signals.INTERRUPTED
        except Exception as error:
            if os.environ.get("SCRFDCONV_DEBUG"):
                raise
            output.fail(
                f"This is a bug in scrfdconv, please report it: {type(error).__name__}: {error} "
                "(SCRFDCONV_DEBUG=1 shows where).",
                BUG,
            )
            return BUG
        return code if isinstance(code, int) else 0


def _require_supported_system() -> None:
    if SYSTEM == "nt":
        raise MissingError(
            "Windows is not supported: run scrfdconv on Linux, as in WSL or in a container."
        )


def _verb_called(name: str) -> Verb | None:
    """The verb of this name, from the module of its name where there is one."""
    module = f"scrfdconv.cli.verbs.{name}"
    if name.isidentifier() and importlib.util.find_spec(module):
        importlib.import_module(module)
    return _written.get(name) or _verbs().get(name)


def _verbs() -> dict[str, Verb]:
    """All verbs: loading every module of the command line declares those written out."""
    from scrfdconv import cli
    from scrfdconv.cli.artifacts.verbs import making_verbs

    for module in pkgutil.walk_packages(cli.__path__, f"{cli.__name__}."):
        if not module.name.endswith("__main__"):  # it runs the application
            importlib.import_module(module.name)
    made = {
        name: Verb(name, one.short_help, MAKE, partial(_making_command, one))
        for name, one in making_verbs().items()
    }
    return made | _written


def _making_command(one: MakingVerb) -> Any:
    from scrfdconv.cli.artifacts.verbs import function_of

    return command_of(function_of(one), one.name)


app = typer.Typer(
    cls=Verbs,
    help="Convert SCRFD face detectors, and prove that every artifact still is that model.",
    epilog="Exit codes: 0 fine, 1 a check failed, 2 wrong usage, 3 an input file is bad, "
    "4 something needed is not on this machine.",
    pretty_exceptions_enable=False,
    # Plain help: importing what rich needs for boxes takes twice as long as all the rest.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from scrfdconv.converters.metadata import package_version

        print(f"scrfdconv {package_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print and exit."),
    ] = False,
) -> None:
    """Convert SCRFD face detectors, and prove that every artifact still is that model."""

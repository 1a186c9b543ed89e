"""The command line. Commands import what they need when they run, so that help is instant."""

from __future__ import annotations

import os
import sys
import traceback
from importlib import import_module

import click

from fusionbench import __version__
from fusionbench.cli.streams import guarded
from fusionbench.config.wording import printable
from fusionbench.errors import DataError, FusionbenchError, PluginError, message_of, plain

# command -> (module, one line of help). Modules are imported when their command is asked for.
COMMANDS = {
    "run": ("run", "Train and evaluate one method over the folds of a protocol."),
    "sweep": ("sweep", "Run what a table or a grid still lacks, here or on a Ray cluster."),
    "leaderboard": ("leaderboard", "Show finished runs as a table."),
    "show": ("show", "Show one row or run, or name them all."),
    "compare": ("compare", "Test two methods against each other, in words for a paper."),
    "rank": ("rank", "Rank methods across datasets, with a critical-difference diagram."),
    "subgroups": ("subgroups", "Show for whom a method works worse: skin type, sex, age, region."),
    "stress": ("stress", "Withhold metadata from a trained model, and flip single answers."),
    "audit": ("audit", "Look for leaks, shortcuts and confounds of a dataset under a protocol."),
    "bench": ("bench", "Measure how fast methods train, next to the bare backbone."),
    "list": ("listing", "List methods, losses, backbones, datasets, protocols, tables, metrics."),
    "data": ("data", "Look at, prepare and verify a dataset."),
    "store": ("store", "Check, list, merge and tidy a folder of records."),
    "check": ("plugins", "Check a plugin against its contract."),
    "new": ("plugins", "Write a working plugin and its test."),
}


class LazyGroup(click.Group):
    """Knows its commands by name; imports one only to run it or show its help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = import_module(f"fusionbench.cli.{COMMANDS[name][0]}")
        return getattr(module, f"{name}_command")

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from fusionbench.plugin.registry import unknown_name

            raise click.UsageError(" ".join(unknown_name("command", args[0], COMMANDS)))
        return super().resolve_command(ctx, args)


@click.group(
    cls=LazyGroup, no_args_is_help=False, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="fusionbench")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """Benchmark of image + patient-metadata fusion for skin-lesion classification.

    \b
    fusionbench run --fusion sgmc --backbone resnet18 --quick
    fusionbench leaderboard
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit code 0, 1 for a failed run or unusable data, 2 for wrong use."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments  # accepted before and after the command's name
    arguments = [a for a in arguments if a != "--debug"] or ["--help"]
    with guarded(json="--json" in arguments and not {"--help", "-h"} & {*arguments}):
        try:
            try:
                for argument in arguments:
                    if not _can_be_named(argument):
                        raise click.UsageError(f"No file can be called {plain(argument)}.")
                # A command returns its exit code where finishing is not succeeding.
                code = cli.main(args=arguments, prog_name="fusionbench", standalone_mode=False)
            except click.exceptions.Exit as error:
                code = error.exit_code
            except SystemExit as error:  # no command of ours does
                raise PluginError("A plugin has ended the command by sys.exit.") from error
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except BrokenPipeError:
            sys.exit(1)  # the reader of our output has gone, as `| head` does
        except (Exception, KeyboardInterrupt) as error:
            sys.exit(_report(error, debug, arguments))


def _can_be_named(argument: str) -> bool:
    """Whether the system could have passed on this argument. A caller in Python can pass more."""
    try:
        return b"\0" not in os.fsencode(argument)
    except UnicodeEncodeError:
        return False


def _report(error: BaseException, debug: bool, arguments: list[str]) -> int:
    """Say what went wrong on stderr; returns the exit code."""
    from fusionbench.cli.terminal import print_error, print_problems

    if isinstance(error, click.Abort | KeyboardInterrupt):
        kept = " Finished folds are kept; the same command goes on from there."
        print_error("Interrupted." + (kept if {"run", "sweep"} & {*arguments} else ""))
        return 130
    if debug:
        sys.stderr.write(printable("".join(traceback.format_exception(error))))
    if isinstance(error, click.ClickException):
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        print_error(error.format_message(), f"See {where} --help." if where else "")
        return error.exit_code
    if isinstance(error, FusionbenchError):
        if isinstance(error, DataError) and error.problems:
            print_problems(error.problems)
        print_error(error.message, error.remedy)
        return error.exit_code
    if isinstance(error, ImportError | MemoryError):
        print_error(
            f"A library cannot be loaded, or memory is exhausted: {message_of(error)}.",
            "Raise the limit of memory (ulimit -v, --memory of a container); where there is none, "
            "install the library again.",
        )
        return 1
    if isinstance(error, OSError) or str(error).startswith("Symlink loop"):  # a RuntimeError
        # Of a file or a machine, which nothing nearer has explained.
        where = f"{name}: " if (name := getattr(error, "filename", None)) else ""
        print_error(
            f"{where}{getattr(error, 'strerror', None) or error}.",
            "Check the file, its folder and the disk.",
        )
        return 1
    print_error(
        f"Internal error, {type(error).__name__}: {error}.",
        "" if debug else "Run again with --debug for the traceback.",
    )
    return 1

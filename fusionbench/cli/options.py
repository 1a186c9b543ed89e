"""Options that several commands share, and help in sections."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from fusionbench.config import wording

F = TypeVar("F", bound=Callable[..., Any])
# Option names (as on the command line, without dashes) under a heading.
Sections = Mapping[str, Sequence[str]]
# Of fusionbench.config, without importing pydantic.
STEPS = ("auto", "eager", "compiled", "captured", "compiled+captured")
WIDEST = 28  # characters of the first column of a help text; longer options take a line


class SectionedCommand(click.Command):
    """Prints its options under headings; what no section names stands last, as "Other"."""

    def __init__(self, *args: Any, sections: Sections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.sections = sections

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown: dict[str, list[tuple[str, str]]] = {title: [] for title in (*self.sections, "Other")}
        place = {name: title for title, names in self.sections.items() for name in names}
        # A line does not break within the note of a default.
        records = {
            max(p.opts, key=len).lstrip("-"): (record[0], record[1].replace("t: ", "t:\xa0"))
            for p in self.get_params(ctx)
            if isinstance(p, click.Option) and (record := p.get_help_record(ctx)) is not None
        }
        order = [*place, *(name for name in records if name not in place)]
        for name in order:
            shown[place.get(name, "Other")].append(records[name])
        # One width for the first column of every section, so that the texts stand in line.
        width = min(max(len(first) for first, _ in records.values()), WIDEST)
        for title, rows in shown.items():
            if rows:
                rows[0] = (rows[0][0].ljust(width), rows[0][1])
                with formatter.section(title):
                    formatter.write_dl(rows, col_max=width)


def listed(text: str) -> list[str]:
    """The parts of `A, B,C`."""
    return [part.strip() for part in text.split(",") if part.strip()]


def ending_of(output: Path, endings: Iterable[str], otherwise: str = "") -> str:
    """The ending of a file of --output, in lower case. Raises UsageError where it is none of these;
    `otherwise` says what else can be done."""
    if (ending := output.suffix.lower()) in endings:
        return ending
    some = wording.listed(endings, "or")
    raise click.UsageError(f"--output {output}: the name must end in {some}{otherwise}.")


class Listed(click.ParamType):
    """`A,B,…` -> a tuple; `all` -> None, where that can be said."""

    name = "list"

    def __init__(self, item: type[str] | type[int], or_all: bool) -> None:
        self.item, self.or_all = item, or_all

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...] | None:
        if self.or_all and value.strip() == "all":
            return None
        try:
            if parts := tuple(self.item(part) for part in listed(value)):
                return parts
        except ValueError:
            pass
        flag = f"{param.opts[0]} " if param else ""
        more = "all, a number, or " if self.or_all else ""
        kind = "numbers as in 0,1" if self.item is int else "names as in A,B"
        raise click.UsageError(f"{flag}{value}: give {more}{kind}.", ctx)


def list_option(
    *names: str, item: type[str] | type[int] = str, or_all: bool = False, **attributes: Any
) -> Callable[[F], F]:
    """An option whose value is a list, given at once or one by one: `--fold 0,1` and `--fold 0
    --fold 1` are the same tuple without repetitions. None: not given, or `all`."""

    def joined(
        ctx: click.Context, param: click.Parameter, values: Sequence[tuple[Any, ...] | None]
    ) -> tuple[Any, ...] | None:
        lists = [value for value in values if value is not None]
        if not lists or len(lists) < len(values):
            return None
        return tuple(dict.fromkeys(part for parts in lists for part in parts))

    kind = Listed(item, or_all)
    return click.option(*names, type=kind, multiple=True, callback=joined, **attributes)


def _device(ctx: click.Context, param: click.Parameter, value: str) -> str:
    # Whether it is there is known to PyTorch, which takes seconds to load.
    if not re.fullmatch(r"auto|cpu|mps|cuda(:[0-9]{1,3})?", value):
        raise click.UsageError(f"--device {value}: give auto, cpu, cuda, cuda:1 or mps.", ctx)
    return value


plugins_option = click.option(
    "--plugins",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Plugin file or folder; may be given several times. Its code is run.",
)
data_option = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with the dataset's files. Default: $FUSIONBENCH_DATA, then datasets/<name>/data.",
)
card_option = click.option(
    "--dataset",
    default="",
    metavar="PATH",
    help="The dataset's card, where its name is not known here.",
)
store_option = click.option(
    "--store",
    type=click.Path(path_type=Path, file_okay=False),
    default="runs",
    metavar="DIR",
    envvar="FUSIONBENCH_STORE",
    show_default=True,
    help="Folder of records.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on standard output.")
step_option = click.option(
    "--step",
    type=click.Choice(STEPS),
    default="auto",
    show_default=True,
    help="How a training step runs: compiled by torch.compile, captured in a CUDA graph, or plain. "
    "auto: both on a GPU, eager on a CPU. What cannot be done falls back.",
)
at_once_option = click.option(
    "--folds-at-once",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Folds computed at a time, each in its own process with its share of the cores: for small "
    "models on a large GPU. The numbers stay the same.",
)
save_weights_option = click.option(
    "--save-weights", is_flag=True, help="Keep the trained weights (safetensors)."
)


def device_options(command: F) -> F:
    """--device and --workers: where a network runs, and how many threads decode photographs."""
    device = click.option(
        "--device",
        callback=_device,
        default="auto",
        show_default=True,
        metavar="NAME",
        help="auto (an NVIDIA GPU if any), cpu, cuda, cuda:1 … or mps.",
    )
    workers = click.option(
        "--workers",
        type=click.IntRange(1),
        metavar="N",
        help="Decoding threads. Default: one per core.",
    )
    return device(workers(command))


def executed_with(*options: Callable[[Any], Any]) -> Callable[[F], F]:
    """Options that say where a run is carried out. The command gets one `execution` of them and of
    its other options that are fields of Execution."""

    def decorate(command: F) -> F:
        @wraps(command)
        def with_execution(**values: Any) -> Any:
            from fusionbench.config.run_config import Execution

            names = [field.name for field in fields(Execution) if field.name in values]
            execution = Execution(**{name: values.pop(name) for name in names})
            return command(execution=execution, **values)

        decorated: Any = with_execution
        for option in options:
            decorated = option(decorated)
        return decorated

    return decorate


execution_options = executed_with(
    data_option, device_options, step_option, at_once_option, store_option, save_weights_option,
    plugins_option,
)  # fmt: skip

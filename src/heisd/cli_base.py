"""What every command of the command line shares: its options, how it fails and how it prints its result."""

import functools
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from heisd.errors import HeisdError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
Out = Annotated[Path, typer.Option("--out", help="Directory of the run; the same command again resumes it.")]
Weights = Annotated[str, typer.Option(help="A bundled policy's name, or a directory with a policy.")]
Dtype = Annotated[str, typer.Option(help="float32 or bfloat16.")]
EulerSteps = Annotated[
    int | None, typer.Option("--euler-steps", help="Of a flow-matching policy; its bundle's choice if left out.")
]
Executed = Annotated[
    int | None, typer.Option("--executed", help="Actions of a chunk before the next round; the bundle's if left out.")
]
Delay = Annotated[
    int | None,
    typer.Option(
        "--delay", min=0, help="Of *_rtc: control steps that a round takes; by --latency-profile if left out, else 0."
    ),
]
Data = Annotated[list[Path], typer.Option("--data", help="Demonstration data sets (repeat the option for several).")]
Recipe = Annotated[
    Path | None, typer.Option("--config", help="JSON file with the recipe; the shipped one if left out.")
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Override the recipe's number of steps.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Override the recipe's seed.")]
Blind = Annotated[bool, typer.Option("--blind", help="The baseline without cameras.")]
Origin = Annotated[
    str | None,
    typer.Option("--from", help="A finished run's directory or a policy (name or directory): the first weights."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint in --out.")]
Workers = Annotated[int, typer.Option(min=1, help="Worker processes.")]


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Every expected way to fail ends in one line on stderr and an exit code."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except HeisdError as error:
            fail(str(error), 2)
        except KeyboardInterrupt as interrupt:
            fail(f"interrupted; {interrupt.args[0] if interrupt.args else 'what was finished before is kept'}", 130)
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            fail(f"{error.strerror or error}{where}; what was finished before is kept", 2)

    return run


def command_line() -> str:
    """What was typed, for manifests."""
    return shlex.join(["heisd", *sys.argv[1:]])


def fail(message: str, code: int) -> NoReturn:
    """End the process with one line on stderr."""
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(code)


def emit(result: dict[str, Any], as_json: bool, show: Callable[[], None]) -> None:
    """One JSON object on stdout, or the human form."""
    if not as_json:
        show()
        return
    from json import dumps

    typer.echo(dumps(result, indent=2, allow_nan=False))

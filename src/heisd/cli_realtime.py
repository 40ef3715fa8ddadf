"""The command line of the latency-charged loop: options of ``heisd eval``, and profiles of this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heisd.cli_base import Json, emit, guarded

if TYPE_CHECKING:
    from heisd.config import RealtimeConfig


def _list_profiles(value: str) -> str:
    """Print the known profiles and end, whatever else was given."""
    if value != "list":
        return value
    from heisd.bench.latency_profile import describe, published_profiles

    typer.echo("\n".join(describe(published_profiles())))
    raise typer.Exit


Realtime = Annotated[bool, typer.Option("--realtime", help="The world does not wait while the policy thinks.")]
Profile = Annotated[
    str,
    typer.Option(
        "--latency-profile",
        help="With --realtime: what answers are charged; a name, a file, or list to see the names.",
        callback=_list_profiles,
        is_eager=True,
    ),
]
ControlHz = Annotated[int, typer.Option("--control-hz", help="With --realtime: 20 Hz or a whole part of it.")]
Meanwhile = Annotated[
    str, typer.Option("--meanwhile", help="With --realtime: hold (go on to the last goal), stop or repeat.")
]


def realtime_config(realtime: bool, profile: str, control_hz: int, meanwhile: str) -> "RealtimeConfig | None":
    """The settings that the options ask for; None for the ordinary loop. BadInput for half of them."""
    from heisd.config import RealtimeConfig, parse_meanwhile
    from heisd.errors import BadInput

    if realtime and not profile:
        raise BadInput("--realtime needs --latency-profile NAME or FILE (--latency-profile list shows the names)")
    given = RealtimeConfig(latency_profile=profile, control_hz=control_hz, meanwhile=parse_meanwhile(meanwhile))
    if realtime:
        return given
    if given != RealtimeConfig(latency_profile=""):
        raise BadInput("--latency-profile, --control-hz and --meanwhile belong to --realtime; add it")
    return None


@guarded
def latency_profile(
    costs: Annotated[
        Path, typer.Argument(help="What heisd bench --costs --json has printed, or bench --method full,flash --json.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The profile to write.")],
    name: Annotated[str, typer.Option(help="Its name; the file's if left out.")] = "",
    json: Json = False,
) -> None:
    """A latency profile of this machine, for heisd eval --realtime."""
    from heisd.bench.measured_profile import measured_profile
    from heisd.files import read_json, write_json

    profile = measured_profile(read_json(costs), name or out.stem)
    write_json(out, profile.model_dump(mode="json"))
    result = {"profile": str(out), "plain_ms": profile.plain_ms}
    emit(result, json, lambda: typer.echo(f"wrote {out}: {profile.name}, plain {profile.plain_ms:.1f} ms"))

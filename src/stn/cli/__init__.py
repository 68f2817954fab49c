"""`stn list | data | train | eval | predict | reproduce | report | explore | export | bench`."""

import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from .data import Data
from .explore import Explore
from .export import Export
from .looks import Predict, Report
from .runs import Eval, List, Train
from .tables import Bench, Reproduce

Command = (
    Annotated[List, tyro.conf.subcommand("list")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Eval, tyro.conf.subcommand("eval")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Reproduce, tyro.conf.subcommand("reproduce")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Explore, tyro.conf.subcommand("explore")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; 0 when it is done, 2 for what the user can mend, 130 after Ctrl-C."""
    from ..training import ProcessLost

    command = tyro.cli(Command, prog="stn", description=__doc__, args=args)
    try:
        command()
    except (ValueError, FloatingPointError, OSError, ImportError, ProcessLost) as error:
        print(f"stn: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"stn: {stop or 'interrupted'}", file=sys.stderr)
        return 130
    return 0

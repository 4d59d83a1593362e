"""`rio dehaze`: the command `run` among those of rasterio.

rio imports every plug-in whenever it starts, so nothing is loaded here that the command itself needs.
"""

from __future__ import annotations

import click


class Forwarded(click.Command):
    """A command whose arguments, --help among them, are all left to another."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = args
        return args


@click.command("dehaze", cls=Forwarded, short_help="Remove haze from aerial and satellite images.")
@click.pass_context
def dehaze(ctx: click.Context) -> None:
    """Remove haze from an image: `dehazexl run` by another name."""
    from dehazexl_cli.cli import main_of_rio

    main_of_rio(ctx.args)

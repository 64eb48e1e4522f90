"""The command line `sensestream`, one module for each command."""

from __future__ import annotations

import sys

import click
from sensestream_common import __version__
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.logs import LEVELS, configure_logs

from sensestream_producer.cli.cache import cache
from sensestream_producer.cli.dead import dead
from sensestream_producer.cli.demo import demo
from sensestream_producer.cli.doctor import doctor
from sensestream_producer.cli.gateway import gateway
from sensestream_producer.cli.pending import pending
from sensestream_producer.cli.setup import Setup
from sensestream_producer.cli.status import status
from sensestream_producer.cli.submit import submit
from sensestream_producer.cli.watch import watch

__all__ = ["main", "sensestream"]

_INTERRUPTED = 130  # 128 + SIGINT, as shells count


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option(
    "--redis-url", metavar="URL", help="URL of the pipeline's Redis [SENSESTREAM_REDIS_URL]."
)
@click.option("--pipeline", metavar="NAME", help="Name of the pipeline [SENSESTREAM_PIPELINE].")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    help="Lowest level of the log lines on stderr [warning; gateway: info].",
)
@click.version_option(__version__, prog_name="sensestream")
@click.pass_context
def sensestream(
    context: click.Context, redis_url: str | None, pipeline: str | None, log_level: str | None
) -> None:
    """Speech in, transcripts out, through one Redis.

    \b
    Try it, with a Redis and a worker of its own:
      sensestream demo
    Transcribe a file, and wait for the text:
      sensestream submit --wait talk.wav
    Print every transcript as it comes:
      sensestream watch
    Serve it over HTTP, with a page:
      sensestream gateway
    """
    service = context.invoked_subcommand == gateway.name
    configure_logs(log_level or ("info" if service else "warning"))
    context.obj = Setup({"redis_url": redis_url, "pipeline": pipeline})


for command in (submit, watch, status, dead, pending, cache, doctor, demo, gateway):
    sensestream.add_command(command)


def main() -> None:
    """Run the command: an error is a sentence on stderr and status 1, a wrong usage status 2."""
    try:
        sensestream.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except SensestreamError as error:
        click.echo(f"sensestream: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # a file of the caller's: a position file, an output directory
        click.echo(f"sensestream: {error}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        sys.exit(_INTERRUPTED)

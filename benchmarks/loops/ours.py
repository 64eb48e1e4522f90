"""The project's own client in a closed loop: submit, and have the outcome.

    python ours.py URL DIGESTS [--queued] [--metadata BYTES] [--audio FILE]

DIGESTS is a file with the digest of a known recording on each line. With a FILE the worker reads
and hashes that instead. When `--queued` every request passes a worker; else the client answers
repeats.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from pathlib import Path

from closed import serve
from sensestream_producer import Client


async def main(options: argparse.Namespace) -> None:
    turns = itertools.cycle(options.digests.read_text().split())
    metadata = {"note": "x" * options.metadata} if options.metadata else None
    async with Client(options.url, answer_cache_hits=not options.queued) as client:
        if options.audio:
            await client.transcribe(options.audio.as_uri())  # heard before, from now on

        async def call() -> None:
            if options.audio:
                outcome = await client.transcribe(options.audio.as_uri())
            else:
                outcome = await client.transcribe(
                    "file:///data/clip.wav", digest=next(turns), metadata=metadata
                )
            if outcome.cache != "hit":
                sys.exit(f"not a hit: {outcome}")

        await serve(call)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("digests", type=Path)
    parser.add_argument("--queued", action="store_true")
    parser.add_argument("--metadata", type=int, default=0)
    parser.add_argument("--audio", type=Path)
    asyncio.run(main(parser.parse_args()))

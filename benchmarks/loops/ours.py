"""The project's own client in a closed loop: submit, and wait for the outcome on the stream.

    python ours.py URL DIGESTS

DIGESTS is a file with the digest of a known recording on each line.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

from closed import serve
from sensestream_producer import Client


async def main(url: str, digests: list[str]) -> None:
    turns = itertools.cycle(digests)
    async with Client(url) as client:

        async def call() -> None:
            outcome = await client.transcribe("file:///data/clip.wav", digest=next(turns))
            if outcome.cache != "hit":
                sys.exit(f"not a hit: {outcome}")

        await serve(call)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_text().split()))

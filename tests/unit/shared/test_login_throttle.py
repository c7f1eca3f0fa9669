"""Limits on guessing passwords, counted in one process, and the cookie that gives a device a count of its own."""

from __future__ import annotations

import pytest

from api.edge.device_cookie import LIFETIME_SECONDS, DeviceCookies
from shared.accounts.login_throttle import LoginThrottle, LoginThrottled
from shared.limits.windows import LocalWindows, Window
from tests.support.manual_clock import ManualClock

SECRET = b"a secret of the tests, 32 bytes or more"


def throttle_of(clock: ManualClock) -> LoginThrottle:
    return LoginThrottle(LocalWindows(clock), per_account=2, per_address=4)


def test_an_account_has_one_count_over_all_addresses() -> None:
    clock = ManualClock()
    throttle = throttle_of(clock)
    throttle.begin("a", "192.0.2.1", device=None)
    clock.advance(20)
    throttle.begin("a", "192.0.2.2", device=None)
    with pytest.raises(LoginThrottled) as refused:
        throttle.begin("a", "192.0.2.3", device=None)
    assert refused.value.retry_after_seconds == 40
    clock.advance(40.1)
    throttle.begin("a", "192.0.2.3", device=None)
    with pytest.raises(LoginThrottled):
        throttle.begin("a", "192.0.2.3", device=None)


def test_an_address_has_one_count_over_all_accounts_and_what_is_refused_is_not_counted() -> None:
    throttle = throttle_of(ManualClock())
    for account in "abcd":
        throttle.begin(account, "2001:db8::1", device=None)
    for account in "efgh":
        with pytest.raises(LoginThrottled):
            throttle.begin(account, "2001:db8::ffff:2", device=None)
    throttle.begin("e", "2001:db8:0:1::1", device=None)
    throttle.begin("e", "2001:db8:0:2::1", device=None)


def test_a_known_device_is_not_locked_out_and_is_limited_itself() -> None:
    throttle = throttle_of(ManualClock())
    for address in ("192.0.2.1", "192.0.2.2"):
        throttle.begin("a", address, device=None)
    with pytest.raises(LoginThrottled):
        throttle.begin("a", "192.0.2.3", device=None)
    for _ in range(2):
        throttle.begin("a", "192.0.2.3", device="known")
    with pytest.raises(LoginThrottled):
        throttle.begin("a", "192.0.2.3", device="known")
    throttle.begin("b", "192.0.2.3", device="known")


def test_an_attempt_that_is_taken_back_does_not_count() -> None:
    throttle = throttle_of(ManualClock())
    for _ in range(10):
        throttle.take_back(throttle.begin("a", "192.0.2.1", device=None))
    throttle.begin("a", "192.0.2.1", device=None)


def test_the_local_windows_forget_the_keys_that_were_used_first() -> None:
    windows = LocalWindows(ManualClock(), maximum_keys=2)
    for key in "abc":
        assert windows.take([Window(key, 1, 60)], "first") == 0
    assert windows.take([Window("c", 1, 60)], "second") > 0
    assert windows.take([Window("a", 1, 60)], "second") == 0


def test_a_device_is_known_for_the_account_it_signed_in_to() -> None:
    clock = ManualClock()
    cookies = DeviceCookies(SECRET, clock)
    first = cookies.signed_in(None, "ada@example.com").value
    both = cookies.signed_in(first, "grace@example.com").value
    assert cookies.device_of(both, "ada@example.com") == cookies.device_of(first, "ada@example.com")
    assert cookies.device_of(both, "grace@example.com") != cookies.device_of(both, "ada@example.com")
    assert cookies.device_of(both, "eve@example.com") is None
    renewed = cookies.signed_in(both, "ada@example.com").value
    assert renewed is not None
    assert renewed.count("~") == 1, "a device has one entry for an account"
    assert DeviceCookies(b"another secret, as long as it has to be", clock).device_of(first, "ada@example.com") is None
    assert cookies.latest(renewed) == cookies.latest(first)
    # All devices of an account share what is the account's.
    others = [cookies.latest(cookies.signed_in(None, "ada@example.com").value) for _ in range(2)]
    assert len({device.account for device in others if device is not None}) == 1
    assert len(set(others)) == 2
    clock.advance(LIFETIME_SECONDS + 1)
    assert cookies.device_of(first, "ada@example.com") is None
    assert cookies.latest(first) is None


def test_a_cookie_that_was_tampered_with_proves_nothing() -> None:
    cookies = DeviceCookies(SECRET, ManualClock())
    value = cookies.signed_in(None, "ada@example.com").value
    assert value is not None
    device, issued, account, signature = value.split(".")
    others = cookies.signed_in(None, "eve@example.com").value
    assert others is not None
    for forged in (
        f"{'A' * 22}.{issued}.{account}.{signature}",
        f"{device}.{int(issued) + 1}.{account}.{signature}",
        f"{device}.{issued}.{others.split('.')[2]}.{signature}",
        f"{device}.{issued}.{account}.{'A' * 22}",
        f"{device}.{issued}.{signature}",
        "~" * 1000,
        "\u00e9",
        "",
    ):
        assert cookies.device_of(forged, "ada@example.com") is None
        assert cookies.latest(forged) is None


def test_a_cookie_holds_the_latest_accounts() -> None:
    cookies = DeviceCookies(SECRET, ManualClock())
    value = None
    for number in range(9):
        value = cookies.signed_in(value, f"user{number}@example.com").value
    assert value is not None
    known = [number for number in range(9) if cookies.device_of(value, f"user{number}@example.com")]
    assert known == [4, 5, 6, 7, 8]

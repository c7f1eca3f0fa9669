from __future__ import annotations

import base64
import random
import zlib

import pytest

from api.streams.account_channel import (
    BATCH_EVENTS,
    EncodedChange,
    TenantChannel,
    compose,
    encode_page,
)
from api.streams.account_cursor import decode_cursor, encode_cursor
from shared.errors import CloudifyError, ErrorCode
from shared.logs.account_events import AccountEvent, AccountPage, StatusChange

GREATEST = 2**63 - 1


def test_positions_come_back_and_those_of_others_are_left_out() -> None:
    generator = random.Random(7)
    for count in (0, 1, 2, 30):
        positions = {f"ten_{number}": generator.choice([0, 1, 127, 128, GREATEST]) for number in range(count)}
        text = encode_cursor(positions)
        assert text.isascii()
        assert not set(text) & set("=+/\r\n ")
        assert decode_cursor(text, [*positions, "ten_unknown"]) == positions
        assert decode_cursor(text, []) == {}
    assert len(encode_cursor({"ten_1": 10_000})) <= 20


def test_a_word_that_was_cut_or_changed_is_refused() -> None:
    text = encode_cursor({"ten_a": 300, "ten_b": 5})
    spoiled = {text[:length] for length in range(len(text))} | {text + "A", text * 2, "x", "=", "ä", "\n", text + "\n"}
    for index, letter in enumerate(text):
        spoiled |= {text[:index] + other + text[index + 1 :] for other in "A_z9" if other != letter}
    for other in spoiled - {text}:
        if other[:-1] == text[:-1] and len(other) == len(text):
            # The last character may have bits that carry nothing.
            continue
        with pytest.raises(CloudifyError) as caught:
            decode_cursor(other, ["ten_a", "ten_b"])
        assert caught.value.code is ErrorCode.INVALID_CURSOR


@pytest.mark.parametrize("body", [b"\x02", b"\x01abc", b"\x01" + b"t" * 8, b"\x01" + b"t" * 8 + b"\xff" * 9 + b"\x7f",
                                  b"\x01" + (b"t" * 8 + b"\x01") * 2, b"\x01" + b"t" * 8 + b"\x80" * 20])  # fmt: skip
def test_a_word_with_a_right_check_and_a_wrong_body_is_refused(body: bytes) -> None:
    text = base64.urlsafe_b64encode(body + zlib.crc32(body).to_bytes(4)).decode().rstrip("=")
    with pytest.raises(CloudifyError):
        decode_cursor(text, ["ten_a"])


def event(seq: int, ts: int = 0) -> AccountEvent:
    return AccountEvent("ten_a", seq, "depl_1", "proj_1", False, StatusChange(status=f"s{seq}", ts=ts))


def page(first: int, last: int, head: int) -> AccountPage:
    return AccountPage(head, [event(seq) for seq in range(first, last + 1)])


def seqs(changes: list[EncodedChange] | None) -> list[int] | None:
    return None if changes is None else [change.seq for change in changes]


def test_a_channel_keeps_a_range_without_gaps() -> None:
    channel = TenantChannel("ten_a", last=3)
    assert channel.after(2) is None
    channel.extend(page(1, 6, 6))
    assert seqs(channel.after(3)) == [4, 5, 6]
    assert seqs(channel.after(5)) == [6]
    assert channel.after(2) is None
    assert channel.after(6) is None
    channel.extend(page(5, 8, 8))
    assert seqs(channel.after(3)) == [4, 5, 6, 7, 8]
    # What is between was deleted before it was read.
    channel.extend(page(20, 21, 21))
    assert (channel.last, channel.after(8), seqs(channel.after(19))) == (21, None, [20, 21])
    channel.extend(AccountPage(30, []))
    assert (channel.last, channel.after(21)) == (30, None)
    channel.extend(page(31, 40 + BATCH_EVENTS, 40 + BATCH_EVENTS))
    assert seqs(channel.after(30)) == list(range(31, 31 + BATCH_EVENTS))


def test_a_channel_keeps_only_the_newest() -> None:
    channel = TenantChannel("ten_a", last=0)
    for start in range(1, 3001, 100):
        channel.extend(page(start, start + 99, 3000))
    assert channel.after(1000) is None
    assert seqs(channel.after(2998)) == [2999, 3000]
    assert channel.after(2000) is not None


def test_a_page_says_what_is_missing() -> None:
    assert seqs(encode_page(3, page(4, 5, 9))) == [4, 5]
    missing = encode_page(3, page(6, 7, 9))
    assert seqs(missing) == [5, 6, 7]
    assert missing[0].frame == b'event: gap\ndata: {"from":4,"to":5,"reason":"retention"}\n\n'
    assert seqs(encode_page(3, AccountPage(9, []))) == [9]
    assert seqs(encode_page(0, AccountPage(9, [event(1), event(2), event(5)]))) == [1, 2]


def test_tenants_are_merged_by_time_and_ids_say_where_each_is() -> None:
    def change(seq: int, ts: int) -> EncodedChange:
        return EncodedChange(seq, ts, b"event: status\ndata: %d\n\n" % ts)

    positions = {"ten_a": 4, "ten_b": 7}
    # A clock went back in the second: its own order holds.
    payload = compose(positions, {"ten_a": [change(5, 10), change(6, 30)], "ten_b": [change(8, 20), change(9, 15)]})
    assert positions == {"ten_a": 6, "ten_b": 9}
    found = [dict(line.split(": ", 1) for line in frame.split("\n")) for frame in payload.decode().split("\n\n")[:-1]]
    assert [frame["data"] for frame in found] == ["10", "20", "15", "30"]
    assert [decode_cursor(frame["id"], positions) for frame in found] == [
        {"ten_a": 5, "ten_b": 7},
        {"ten_a": 5, "ten_b": 8},
        {"ten_a": 5, "ten_b": 9},
        {"ten_a": 6, "ten_b": 9},
    ]


def test_a_large_batch_is_cut_where_its_ids_say() -> None:
    changes = [EncodedChange(seq, 0, b"x" * 1000) for seq in range(1, 201)]
    positions = {"ten_a": 0}
    payload = compose(positions, {"ten_a": changes})
    assert 0 < positions["ten_a"] < 200
    assert payload.count(b"id: ") == positions["ten_a"]

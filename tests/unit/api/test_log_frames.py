from __future__ import annotations

import asyncio
import json

from api.streams.frames import encode_entry, frames, reconnect_frame, retry_frame
from api.streams.log_channel import LogChannel, page_batch
from schemas.logs import LogEnd, LogEntry, LogLine, LogStatus, LogTruncated
from shared.logs.base import LogHead, NumberedEntry


def line(text: str) -> LogLine:
    return LogLine(timestamp=5, stage="build", stream="stderr", text=text)


def numbered(*entries: LogEntry, first: int = 1) -> list[NumberedEntry]:
    return [NumberedEntry(seq, entry) for seq, entry in enumerate(entries, start=first)]


def rendered(*entries: LogEntry) -> str:
    return frames(encode_entry(entry) for entry in numbered(*entries)).decode()


def test_each_kind_of_entry() -> None:
    assert rendered(line("a"), line("b"), LogStatus(timestamp=5, status="building", stage="build", attempt=2)) == (
        'id: 2\nevent: log\ndata: {"lines":[{"seq":1,"ts":5,"stage":"build","stream":"stderr","text":"a"},'
        '{"seq":2,"ts":5,"stage":"build","stream":"stderr","text":"b"}]}\n\n'
        'id: 3\nevent: status\ndata: {"seq":3,"status":"building","stage":"build","attempt":2}\n\n'
    )
    assert rendered(LogTruncated(timestamp=5)) == (
        'id: 1\nevent: gap\ndata: {"from":1,"to":1,"reason":"truncated"}\n\n'
    )
    failed = LogEnd(timestamp=5, status="failed", error={"code": "TIMEOUT", "stage": "build", "message": "m"})
    assert rendered(failed) == (
        'id: 1\nevent: end\ndata: {"status":"failed","seq":1,'
        '"error":{"code":"TIMEOUT","stage":"build","message":"m"}}\n\n'
    )
    assert reconnect_frame("shutdown") == b'event: reconnect\ndata: {"reason":"shutdown"}\n\n'
    assert 1000 <= int(retry_frame().removeprefix(b"retry: ")) <= 5000


def test_a_line_cannot_forge_a_field() -> None:
    hostile = "x\r\n\r\nevent: end\ndata: {}\n\n\r"
    received = rendered(line(hostile))
    assert received.count("\n") == 4
    assert "\r" not in received
    assert json.loads(received.split("data: ", 1)[1])["lines"][0]["text"] == hostile


def test_at_most_100_lines_an_event() -> None:
    events = rendered(*(line(str(number)) for number in range(250))).split("\n\n")[:-1]
    assert [event.split("\n")[0] for event in events] == ["id: 100", "id: 200", "id: 250"]


def test_a_channel_gives_what_follows_a_cursor_and_forgets_the_oldest() -> None:
    channel = LogChannel("depl_x")
    channel.load(LogHead(3, is_closed=False), numbered(line("1"), line("2"), line("3")))
    batch = channel.batch(1)
    assert batch is not None
    assert (batch.cursor, batch.is_end) == (3, False)
    assert channel.batch(1) is batch
    assert channel.batch(3) is None
    channel.extend(numbered(*(line("x") for _ in range(2500)), first=2))
    assert channel.last == 2501
    assert channel.batch(1) is None
    assert channel.batch(2500) is not None


def test_a_closed_log_is_read_to_the_end_only_at_its_head() -> None:
    channel = LogChannel("depl_x")
    channel.load(LogHead(9, is_closed=True), numbered(line("1")))
    assert not channel.is_read_to_the_end(9)
    channel.extend(numbered(*(line("x") for _ in range(7)), LogEnd(timestamp=5, status="ready"), first=2))
    assert channel.is_read_to_the_end(9)


def test_missing_entries_become_gaps_at_page_borders() -> None:
    entries = numbered(line("4"), first=4) + numbered(line("8"), first=8)
    first = page_batch(1, entries, 8)
    assert first is not None
    assert first.cursor == 4
    assert b'{"from":2,"to":3,"reason":"retention"}' in first.payload
    second = page_batch(4, entries[1:], 8)
    assert second is not None
    assert second.cursor == 8
    assert b'{"from":5,"to":7,"reason":"retention"}' in second.payload
    nothing_left = page_batch(4, [], 8)
    assert nothing_left is not None
    assert nothing_left.cursor == 8
    assert page_batch(8, [], 8) is None


def test_every_change_wakes_those_who_wait() -> None:
    async def run() -> None:
        channel = LogChannel("depl_x")
        waits = [asyncio.create_task(channel.signal.wait(0, 60)) for _ in range(3)]
        await asyncio.sleep(0)
        channel.extend(numbered(line("1")))
        async with asyncio.timeout(120):
            await asyncio.gather(*waits)
            # What changed before the wait began isn't waited for.
            await channel.signal.wait(0, 60)

    asyncio.run(run())


def test_a_place_in_the_queue_does_not_move_the_position() -> None:
    channel = LogChannel("depl_x")
    channel.load(LogHead(0, is_closed=False), [])
    channel.extend(numbered(LogStatus(timestamp=1, status="queued")))
    channel.show_position(3)
    data = b'{"seq":1,"status":"queued","stage":null,"attempt":null,"queuePosition":3}'
    assert channel.position == b"event: status\ndata: " + data + b"\n\n"
    channel.extend(numbered(LogStatus(timestamp=1, status="cloning"), first=2))
    assert channel.position == b""
    channel.show_position(2)
    assert channel.position == b""

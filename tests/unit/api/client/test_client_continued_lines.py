"""A line that was too long for one entry of the log is one line again when it is printed."""

from __future__ import annotations

import pytest

from api.cli.output import Output, format_log_lines
from schemas.deployments import LogLineResource


def piece(text: str, *, stage: str = "build", stream: str = "stdout", continued: bool = False) -> LogLineResource:
    return LogLineResource(seq=1, ts=1, stage=stage, stream=stream, text=text, continued=continued)


def shown(*lines: LogLineResource, begun: LogLineResource | None = None) -> str:
    return format_log_lines(lines, keep_colours=False, begun=begun)


def test_pieces_are_put_together() -> None:
    assert shown(piece("a", continued=True), piece("b", continued=True), piece("c"), piece("d")) == (
        "build    abc\nbuild    d\n"
    )
    assert shown(piece("b"), begun=piece("a", continued=True)) == "b\n"
    assert shown(piece("a", continued=True)) == "build    a"
    assert shown(piece("")) == "build    \n"
    assert shown() == ""


def test_a_line_of_another_stream_comes_between_on_a_line_of_its_own() -> None:
    lines = (piece("a", continued=True), piece("warning", stream="stderr"), piece("b"))
    assert shown(*lines) == "build    a\nbuild    warning\nbuild    b\n"
    assert shown(piece("next", stage="upload"), begun=piece("a", continued=True)) == "\nupload   next\n"


def test_a_piece_cannot_forge_a_line() -> None:
    assert shown(piece("a\r\nbuild    forged", continued=True), piece("\x1b[2Jb")) == ("build    a␍␊build    forgedb\n")


def test_pieces_that_come_apart_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(as_json=False, environment={})
    output.log_lines([piece("one"), piece("a", continued=True)], is_result=True)
    output.log_lines([], is_result=True)
    output.log_lines([piece("b", continued=True)], is_result=True)
    output.note("meanwhile")
    output.log_lines([piece("c")], is_result=True)
    output.log_lines([piece("open", continued=True)], is_result=True)
    output.text("a result")
    output.log_lines([piece("end", continued=True)], is_result=True)
    output.end_line()
    output.end_line()
    captured = capsys.readouterr()
    assert captured.out == "build    one\nbuild    abc\nbuild    open\na result\nbuild    end\n"
    assert captured.err == "meanwhile\n"

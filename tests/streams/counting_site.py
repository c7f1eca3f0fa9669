"""A project whose build prints numbered lines at a pace, and its last ones only once it is told to."""

from __future__ import annotations

import contextlib
import signal

import psutil

from tests.support.sites import node_project

# Lines per second; from this share of the lines on it trickles, until a SIGCONT lets it end. Nobody but this test sends
# that signal, and to a process that doesn't listen for it yet it does nothing.
_HELD_SHARE = 0.9
_TRICKLE = 4
_SCRIPT = """
const fs = require("fs");
const RUN = require("crypto").randomBytes(4).toString("hex");
const started = Date.now();
let number = 0;
let isReleased = false;
process.on("SIGCONT", () => { isReleased = true; });

function line(number) {
  // What streams and parsers stumble over: empty-looking, like a field, coloured, long, and separators that aren't.
  const odd = ["", "data: x", "id: 7", "\\u001b[31mred\\u001b[0m", "\\u2028\\u2029\\u0085", "é 漢 🙂", '"\\\\',
    ": comment", "x".repeat(number % 1000 === 0 ? 3000 : 40)];
  return `${RUN} ${String(number).padStart(6, "0")} ${odd[number % odd.length]}\\n`;
}

function due() {
  if (isReleased) return number + 1000;
  const paced = (Date.now() - started) / 1000 * RATE;
  return paced <= HELD ? paced : Math.min(TOTAL - 1, HELD + (paced - HELD) / RATE * TRICKLE);
}

function tick() {
  const until = Math.min(TOTAL, Math.floor(due()));
  let text = "";
  while (number < until) text += line(++number);
  process.stdout.write(text, () => { if (number < TOTAL) setTimeout(tick, 20); });
}

fs.mkdirSync("dist", { recursive: true });
fs.writeFileSync("dist/index.html", "<h1>counted</h1>");
tick();
"""


def counting_site(lines: int, rate: int) -> dict[str, str]:
    """Each line is "<8 hex digits of the run> <number from 000001> <some text>"."""
    numbers = f"const TOTAL = {lines}, RATE = {rate}, HELD = {int(lines * _HELD_SHARE)}, TRICKLE = {_TRICKLE};\n"
    return node_project(numbers + _SCRIPT)


def release(processes: list[psutil.Process]) -> None:
    """Lets the build among these processes print the rest and end. May be repeated."""
    for process in processes:
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            process.send_signal(signal.SIGCONT)

// Follows a log with npm's `eventsource`: node follow.mjs STREAM_URL FILE, the token in STREAM_TOKEN.
// Writes one JSON object a line to FILE: {"event": "connected"} for each connection, then what it processed, in order.
import { openSync, writeSync } from "node:fs";
import { EventSource } from "eventsource";

const [url, file] = process.argv.slice(2);
const output = openSync(file, "w");
const write = (value) => writeSync(output, JSON.stringify(value) + "\n");
let last = 0;
// While `eventsource` waits to reconnect, nothing else keeps Node from ending.
const alive = setInterval(() => {}, 60_000);

const withToken = (input, init) =>
  fetch(input, { ...init, headers: { ...init.headers, Authorization: `Bearer ${process.env.STREAM_TOKEN}` } });

function open() {
  const source = new EventSource(last ? `${url}?after=${last}` : url, { fetch: withToken });
  source.onopen = () => write({ event: "connected", last });
  source.onerror = (error) => {
    // It reconnects by itself, with Last-Event-ID, except after an answer other than 200.
    if (source.readyState !== EventSource.CLOSED) return;
    if (error.code < 500 && error.code !== 429) throw new Error(`${error.code} ${error.message}`);
    setTimeout(open, 500 + 500 * Math.random());
  };
  for (const kind of ["log", "status", "gap", "end"]) {
    source.addEventListener(kind, (event) => {
      take(kind, JSON.parse(event.data), event.lastEventId);
      if (kind !== "end") return;
      source.close();
      clearInterval(alive);
    });
  }
}

function take(kind, data, id) {
  const entries = kind === "log" ? data.lines : [data];
  const number = (entry) => (kind === "gap" ? entry.to : entry.seq);
  if (id !== String(number(entries.at(-1)))) throw new Error(`the event's id is ${id}: ${JSON.stringify(data)}`);
  for (const entry of entries) {
    if (number(entry) <= last) continue;
    last = number(entry);
    write({ event: kind, ...entry });
  }
}

open();

// Follows the log twice with `followLog` as the documentation gives it, with the session's cookie and with tickets, and
// reports in blocks what it processed.
const { deploymentId, email, password, token } = await (await fetch("/report/settings")).json();
const waiting = { cookie: [], ticket: [] };
const blocks = { cookie: 0, ticket: 0 };

window.EventSource = class extends EventSource {
  constructor(url) {
    super(url);
    const name = url.includes("ticket=") ? "ticket" : "cookie";
    this.addEventListener("open", () => waiting[name].push({ event: "connected" }));
  }
};

async function post(path, body, headers = {}) {
  const answer = await fetch(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function report(name) {
  const records = waiting[name];
  waiting[name] = [];
  if (records.length === 0) return;
  await post(`/report/${name}/${blocks[name]}`, records);
  blocks[name] += 1;
}

async function follow(name, options) {
  let isOver = false;
  const over = followLog(deploymentId, (kind, entry) => waiting[name].push({ event: kind, ...entry }), options);
  over.finally(() => (isOver = true)).catch(() => {});
  while (!isOver) {
    await Promise.race([over, new Promise((resolve) => setTimeout(resolve, 200))]);
    await report(name);
  }
  // What came while the last block was on its way.
  await report(name);
}

async function getTicket() {
  const authorization = { Authorization: `Bearer ${token}` };
  return (await post("/api/auth/stream-tickets", { deploymentId }, authorization)).data.ticket;
}

async function reportFailure(name, error) {
  waiting[name].push({ event: "failed", message: String(error) });
  await report(name);
}

try {
  await post("/api/auth/login", { email, password });
} catch (error) {
  await reportFailure("cookie", error);
}
follow("cookie").catch((error) => reportFailure("cookie", error));
follow("ticket", { getTicket }).catch((error) => reportFailure("ticket", error));

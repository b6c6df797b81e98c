// The dashboard: what it asks, how often, and where the answers go.

import { Admin } from "./admin.js";
import { Board } from "./board.js";
import { Theme, help, listenToKeys } from "./controls.js";
import { ask } from "./dialogs.js";
import { h, mark, put, state } from "./dom.js";
import { Figures } from "./figures.js";
import { bytes, duration, number } from "./format.js";
import { Live } from "./live.js";
import { AlertsPanel } from "./panel_alerts.js";
import { FeedsPanel } from "./panel_feeds.js";
import { JobsPanel } from "./panel_jobs.js";
import { ProcessesPanel } from "./panel_processes.js";
import { SessionsPanel } from "./panel_sessions.js";
import { TopicsPanel } from "./panel_topics.js";

const PAUSE = 2_000; // ms between two rounds of requests, at least
const SOON = 1_000; // ms between two rounds where events ask for the second
const SHARE = 20; // a pause is so many times as long as the round before it: a loaded engine is asked less often
const LONGEST = 15_000; // ms, also where nobody answers
const TICK = 1_000; // ms between two looks at the clock
const LOAD = 10; // s over which the page's own load is averaged
const SAID = 6_000; // ms that a message stays
const TOKEN = "heliograph-token"; // in sessionStorage
const GRANTS = "It should allow: subscribe to system.>, alert.> and progress.>; call progress.>, to cancel jobs.";
const STATUS = { ok: "ok", degraded: "warn", down: "bad" };

const place = (id) => document.getElementById(id);
const title = document.title;

const board = new Board();
const admin = new Admin(askForKey);
const live = new Live({ metrics: onMetrics, feed: onFeed, alert: onAlert, progress: onProgress }, onConnection);
const parts = { admin, live, act: Object.assign(act, { failed: sayTrouble }), refresh: hurry, now };
const figures = new Figures(board, admin, { tiles: place("tiles"), charts: place("plots"), windows: place("windows") });
const alerts = new AlertsPanel(place("alerts"), parts);
const jobs = new JobsPanel(place("jobs"), parts);
const feeds = new FeedsPanel(place("feeds"), parts);
const processes = new ProcessesPanel(place("processes"), parts);
const topics = new TopicsPanel(place("topics"), parts);
const sessions = new SessionsPanel(place("sessions"), parts);

let facts = null; // of /api/dashboard; null: to be asked for, at first and when the engine may be another one
let version = null; // of the engine whose page this is
let skew = 0; // s that the engine's clock is ahead of this one
let wasOpen = false; // the page's connection
let health = null;
let stats = null;
let askingForToken = false;
let alertsStale = true;
let failures = 0; // rounds in a row that failed
let isSilent = false; // the admin port does not answer
let wanted = false; // a round, by what has changed since the last one began
let wake = () => {}; // end the present pause when it has lasted so many milliseconds

// Asking --------------------------------------------------------------------------------------------------------------

/** Rounds of requests, one request at a time, while somebody looks. */
async function keepAsking() {
  for (;;) {
    const began = performance.now();
    try {
      await round();
      failures = 0;
      isSilent = false;
    } catch (error) {
      failures++;
      isSilent = error.status === 0;
      facts = null;
      showTrouble(error);
    }
    const took = performance.now() - began;
    const pause = failures ? PAUSE * 2 ** (failures - 1) : took * SHARE;
    await quiet(Math.min(LONGEST, Math.max(PAUSE, pause)));
  }
}

async function round() {
  health = await admin.get("/health");
  if (facts === null) await begin();
  stats = await admin.get("/stats");
  board.stats(stats);
  feeds.update(stats.feeds);
  const refused = [];
  if (alertsStale) await askForAlerts().catch((error) => refused.push(error));
  if (inView.has("topics")) await topics.poll().catch((error) => refused.push(error));
  if (inView.has("sessions")) await sessions.poll().catch((error) => refused.push(error));
  showTrouble(refused[0] ?? null); // an engine without its hub answers the rest
  if (refused.some(({ status }) => status === 0)) throw refused.at(-1);
}

/** Wait so many milliseconds and for somebody to look, or until {@link hurry} or {@link soon}. */
async function quiet(milliseconds) {
  const began = performance.now();
  await new Promise((resolve) => {
    let timer = setTimeout(resolve, milliseconds);
    wake = (least) => {
      clearTimeout(timer);
      timer = setTimeout(resolve, Math.max(0, began + Math.min(least, milliseconds) - performance.now()));
    };
    if (wanted) wake(SOON);
  });
  wanted = false;
  while (document.hidden) {
    await new Promise((resolve) => document.addEventListener("visibilitychange", resolve, { once: true }));
  }
}

/** The operator waits for what the next round brings. */
function hurry() {
  wake(0);
}

/** Something has changed, maybe not for the last time. */
function soon() {
  wanted = true;
  wake(SOON);
}

async function begin() {
  const found = await admin.get("/api/dashboard");
  if (version !== null && version !== found.version) location.reload(); // another engine, whose page is another
  version = found.version;
  skew = found.now - Date.now() / 1000;
  facts = found;
  document.body.dataset.operate = String(found.operate);
  alertsStale = true;
  await figures.begin();
  if (live.socket !== found.socket) connect();
}

async function askForAlerts() {
  const open = await alerts.poll();
  alertsStale = false;
  document.title = open ? `(${open}) ${title}` : title;
}

function connect() {
  if (isTokenMissing() && !sessionStorage.getItem(TOKEN)) return askForToken();
  return live.open(facts.socket, facts.token_needed ? token : null);
}

/** Whether the page needs a token that somebody else makes. */
function isTokenMissing() {
  return facts?.token_needed && facts.token === null;
}

/** For the page's connection: made by the engine, or by somebody else and told by the operator. */
async function token() {
  const { token: made } = await admin.get("/api/dashboard");
  return made ?? sessionStorage.getItem(TOKEN) ?? "";
}

async function askForToken() {
  if (askingForToken) return;
  askingForToken = true;
  const found = await ask({
    title: "A token for this page",
    text: `${live.socket === null ? "Clients of this engine need a token, and it is made elsewhere." : "The engine has refused the token."} ${GRANTS}`,
    fields: [{ name: "token", label: "Token", type: "password", required: true }],
    action: "Connect",
  });
  askingForToken = false;
  if (found === null) return;
  sessionStorage.setItem(TOKEN, found.token);
  connect();
}

async function askForKey(refused) {
  const found = await ask({
    title: "API key",
    text: refused
      ? "The engine does not know this key."
      : "This engine's admin API has keys: one with scope read shows the dashboard, one with operate also acts.",
    fields: [{ name: "key", label: "Key", type: "password", required: true }],
    action: "Open",
  });
  return found?.key ?? null;
}

// Hearing -------------------------------------------------------------------------------------------------------------

function onMetrics({ ts, data }) {
  board.metrics(ts, data);
}

function onFeed(event) {
  feeds.event(event);
  soon();
}

function onAlert({ type, data }) {
  alertsStale = true;
  soon();
  const subject = data?.subject ? ` for ${data.subject}` : "";
  if (type === "alert_fired") put(place("heard"), `Alert ${data.rule}${subject} fired. ${data.message ?? ""}`);
  if (type === "alert_cleared") put(place("heard"), `Alert ${data.rule}${subject} cleared.`);
}

function onProgress(event) {
  jobs.event(event);
}

function onConnection() {
  if (live.state === "open" && !wasOpen) {
    facts = null; // after a restart it may be another engine, and figures were missed
    soon();
  }
  wasOpen = live.state === "open";
  if (live.state === "closed" && isTokenMissing()) askForToken();
  showConnection();
}

// Acting --------------------------------------------------------------------------------------------------------------

/** Ask the operator, do it, and say what came of it. */
async function act({ run, done, ...question }) {
  const answer = await ask(question);
  if (answer === null) return;
  try {
    await run(answer);
    say(done);
  } catch (error) {
    sayTrouble(error);
  }
  alertsStale = true;
  hurry();
}

function say(text, kind = "ok") {
  const message = h("p", { class: kind }, text);
  place("said").append(message);
  setTimeout(() => message.remove(), SAID);
}

function sayTrouble(error) {
  say(error.message, "bad");
}

// Showing -------------------------------------------------------------------------------------------------------------

function now() {
  return Date.now() / 1000 + skew;
}

function tick() {
  if (document.hidden) return;
  showEngine();
  showConnection();
  processes.update(health?.components ?? {}, stats, board.now);
  feeds.tick();
  jobs.tick();
  figures.draw();
  showLoad();
}

function showEngine() {
  const status = isSilent ? "no answer" : (health?.status ?? "…");
  showState(place("engine"), isSilent ? "bad" : (STATUS[status] ?? "idle"), status);
  put(place("node"), health?.node ?? "–");
  put(place("version"), health?.version ?? "–");
  put(place("uptime"), facts ? duration(Math.floor(now() - facts.started)) : "–");
}

function showConnection() {
  const left = live.retryAt === null ? "" : ` in ${Math.max(0, Math.ceil((live.retryAt - performance.now()) / 1000))} s`;
  const [kind, word] = {
    open: ["ok", "live"],
    connecting: ["busy", "connecting"],
    waiting: ["warn", live.socket === null ? "not connected" : `reconnecting${left}`],
    closed: ["bad", "disconnected"],
  }[live.state];
  showState(place("connection"), kind, word);
  mark(place("connection"), "title", live.reason);
  place("reconnect").hidden = live.state !== "closed" && !(isTokenMissing() && live.socket === null);
}

function showState(element, kind, word) {
  const shown = `${kind} ${word}`;
  if (element.dataset.shown === shown) return;
  element.dataset.shown = shown;
  element.replaceChildren(state(kind, word));
}

function showTrouble(error) {
  const element = place("trouble");
  element.hidden = error === null;
  if (error !== null) put(element, `${error.message}. What is shown may be old; the page tries again by itself.`);
  tick();
}

const counted = []; // [performance.now(), requests, bytes, events], one a tick

function showLoad() {
  counted.push([performance.now(), admin.requests, admin.bytes, live.events]);
  if (counted.length > LOAD) counted.shift();
  const [first, last] = [counted[0], counted.at(-1)];
  const seconds = (last[0] - first[0]) / 1000;
  if (seconds < 1) return;
  const rate = (i) => (last[i] - first[i]) / seconds;
  put(
    place("load"),
    `This page: ${number(rate(1))} requests/s, ${bytes(rate(2))}/s of answers, ${number(rate(3))} events/s`,
  );
}

// Looking -------------------------------------------------------------------------------------------------------------

const inView = new Set();

function watchPanels() {
  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) inView.add(target.id);
      else inView.delete(target.id);
    }
    if (facts !== null && entries.some(({ isIntersecting }) => isIntersecting)) hurry();
  });
  for (const id of ["topics", "sessions"]) observer.observe(place(id));
}

listenToKeys(new Theme(place("theme"), () => figures.recolour()));
place("help").addEventListener("click", help);
place("reconnect").addEventListener("click", () => (isTokenMissing() ? askForToken() : connect()));
document.addEventListener("visibilitychange", tick);
watchPanels();
setInterval(tick, TICK);
keepAsking();

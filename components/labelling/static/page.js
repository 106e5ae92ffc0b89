// The page on which people compare: keys and buttons give votes, the server answers with the next item.
import { Outbox, Watch } from "./outbox.js";

const $ = (id) => document.getElementById(id);
const csrf = document.querySelector("meta[name=csrf]").content;
const store = document.body.dataset.store;
const outbox = new Outbox(store);
const watch = new Watch();
const LONGEST_WAIT = 30;
const POLL_SECONDS = 10;
const ALIVE_SECONDS = 120;
let busy = false;
let wait = 1;
let retry;
let flag = null;

const situation = () => $("situation").dataset;
const asks = () => situation().state === "item";

// ---- talking to the server

class Ended extends Error {}
class Rejected extends Error {}

async function ask(path, body) {
  const options = body && {
    method: "POST",
    headers: { "content-type": "application/json", "x-csrf-token": csrf },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, { ...options, signal: AbortSignal.timeout(15000), cache: "no-store" });
  if (answer.status === 401 || answer.status === 403) throw new Ended();
  if (answer.status >= 400 && answer.status < 500 && answer.status !== 429) throw new Rejected();
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer.text();
}

async function deliver() {
  clearTimeout(retry);
  setBusy(true);
  try {
    let html, lost = false;
    for (const vote of outbox.all()) {
      try {
        html = await ask("vote", vote);
      } catch (error) {
        if (!(error instanceof Rejected)) throw error;
        lost = true;
        html = await ask("item");
      }
      outbox.drop(vote);
    }
    wait = 1;
    say("");
    if (html !== undefined) {
      show(html);
      setting(`${store}:turn`, String(Date.now()));
    }
    if (lost) say("Your last judgement was not accepted, and is not kept. Judge that item again if it comes back.", true);
    setBusy(false);
  } catch (error) {
    if (error instanceof Ended) {
      say("Your session has ended, or this page is out of date. Your last judgement is kept in this browser: load the page again, or open your personal link.", true);
      return;
    }
    say("The connection is lost. Your last judgement is kept in this browser and is sent as soon as the connection is back.", true);
    retry = setTimeout(deliver, wait * 1000);
    wait = Math.min(LONGEST_WAIT, wait * 2);
  }
}

async function refresh(note) {
  if (busy) return;
  const html = await ask("item").catch(() => undefined);
  if (html === undefined || busy) return;
  const next = parsed(html).dataset;
  if (next.item !== situation().item || next.state !== situation().state) {
    show(html);
    if (note) say(note);
  }
}

// ---- what the annotator does

function vote(choice) {
  if (busy || !asks()) return;
  const { task, item } = situation();
  outbox.put({ vote_id: crypto.randomUUID?.() ?? uuid(), task, item_id: item, choice, seconds: watch.seconds(), flag });
  deliver();
}

async function undo() {
  if (busy) return;
  const task = situation().task;
  if (!task) return say("There is nothing to undo.");
  setBusy(true);
  const event = { event_id: crypto.randomUUID?.() ?? uuid(), task };
  try {
    show(await ask("undo", event));
  } catch (error) {
    say(error instanceof Ended ? "Your session has ended: load the page again." : "The connection is lost, and nothing was undone. Try again.", true);
  }
  setBusy(false);
}

function uuid() {
  // Outside HTTPS and the loopback interface, browsers lack randomUUID.
  const hex = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/(.{8})(.{4})(.{4})(.{4})(.{12})/, "$1-$2-$3-$4-$5");
}

function setFlag(text) {
  // A half of a character, as a cut text may have at its end, is no text that can be kept.
  flag = (text && (text.toWellFormed?.() ?? text)) || null;
  $("flag").setAttribute("aria-pressed", String(flag !== null));
  $("flag").firstChild.textContent = flag === null ? "Flag " : "Flagged ";
}

// ---- what the annotator sees

function parsed(html) {
  return new DOMParser().parseFromString(html, "text/html").getElementById("situation");
}

function show(html) {
  $("situation").replaceWith(document.importNode(parsed(html), true));
  setFlag(null);
  watch.restart();
  dress();
  window.scrollTo(0, 0);
  $("conversation-title").focus({ preventScroll: true });
  const { note, judged } = situation();
  if (note) say(note);
  $("live").textContent = note || `${judged} judged by you.`;
}

// Fit a new item to what the annotator chose before.
function dress() {
  const { judged, labelled, quota, round } = situation();
  const hasTask = round !== "";
  $("round").textContent = hasTask ? `round ${round}` : "";
  $("own").textContent = hasTask ? `${judged} by you` : "";
  $("whole").textContent = hasTask ? `${Math.min(+labelled, +quota)} of ${quota} in all` : "";
  $("meter").hidden = !hasTask;
  $("meter").max = +quota || 1;
  $("meter").value = +labelled;
  for (const button of $("choices").querySelectorAll("[data-choice], #flag")) button.disabled = busy || !asks();
  $("choices").dataset.idle = String(!asks());
  const raw = setting("raw") === "yes";
  $("raw").setAttribute("aria-pressed", String(raw));
  for (const element of document.querySelectorAll("#situation .rendered")) element.hidden = raw;
  for (const element of document.querySelectorAll("#situation .raw")) element.hidden = !raw;
  const rubric = document.querySelector(".rubric");
  if (rubric) {
    // On a phone it gives way to the answers once it was read.
    const isRead = matchMedia("(max-width: 48rem)").matches && judged !== "0";
    rubric.open = (setting("rubric") ?? (isRead ? "closed" : "open")) === "open";
    rubric.firstElementChild.addEventListener("click", () => setting("rubric", rubric.open ? "closed" : "open"));
  }
  scrollTogether([...document.querySelectorAll(".pane")]);
}

// Long answers side by side scroll by the same share.
function scrollTogether(panes) {
  let led;
  for (const pane of panes) {
    pane.addEventListener("scroll", () => {
      if (led === pane) return void (led = undefined);
      const share = pane.scrollTop / Math.max(1, pane.scrollHeight - pane.clientHeight);
      for (const other of panes) {
        const top = Math.round(share * (other.scrollHeight - other.clientHeight));
        if (other === pane || Math.abs(other.scrollTop - top) < 2) continue;
        led = other;
        other.scrollTop = top;
      }
    }, { passive: true });
  }
}

function say(text, isBad = false) {
  $("notice").hidden = !text;
  $("notice").textContent = text;
  $("notice").classList.toggle("bad", isBad);
}

function setBusy(is) {
  busy = is;
  $("desk").setAttribute("aria-busy", String(is));
  for (const button of $("choices").querySelectorAll("button")) button.disabled = is || (button.id !== "undo" && !asks());
}

function setting(name, value) {
  try {
    if (value !== undefined) localStorage.setItem(`ratchet:${name}`, value);
    return localStorage.getItem(`ratchet:${name}`);
  } catch {
    return null;
  }
}

// ---- wiring

const KEYS = {
  1: () => vote("left"),
  2: () => vote("right"),
  t: () => vote("tie"),
  b: () => vote("both_bad"),
  s: () => vote("skip"),
  u: undo,
  f: () => asks() && !busy && openFlag(),
  "?": () => $("keys").showModal(),
};

function openFlag() {
  $("flag-text").value = flag ?? "";
  $("flagging").showModal();
}

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (isTyping || document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const act = KEYS[event.key?.toLowerCase()];
  if (!act || setting("keys") === "off") return;
  event.preventDefault();
  act();
});
$("choices").addEventListener("click", (event) => {
  const button = event.target.closest("[data-choice]");
  if (button) vote(button.dataset.choice);
});
$("undo").addEventListener("click", undo);
$("flag").addEventListener("click", openFlag);
$("flag-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setFlag($("flag-text").value.trim());
  $("flagging").close();
});
$("flag-drop").addEventListener("click", () => {
  setFlag(null);
  $("flagging").close();
});
$("show-keys").addEventListener("click", () => $("keys").showModal());
$("keys-on").checked = setting("keys") !== "off";
$("keys-on").addEventListener("change", (event) => setting("keys", event.target.checked ? "on" : "off"));
$("raw").addEventListener("click", () => {
  setting("raw", setting("raw") === "yes" ? "no" : "yes");
  dress();
});
window.addEventListener("online", () => outbox.all().length && deliver());
window.addEventListener("storage", (event) => {
  if (event.key === `ratchet:${store}:turn`) refresh("You went on in another tab: this one follows.");
});
document.addEventListener("visibilitychange", () => document.hidden || refresh(""));
setInterval(() => !document.hidden && !asks() && refresh(""), POLL_SECONDS * 1000);
setInterval(() => {
  const { task, item } = situation();
  if (!document.hidden && asks()) ask("alive", { task, item_id: item }).catch(() => undefined);
}, ALIVE_SECONDS * 1000);

dress();
if (situation().note) say(situation().note);
if (outbox.all().length) deliver();

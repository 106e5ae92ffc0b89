// The chat page: signing in, consent, and the stream of an answer. thumbs.js rates answers.
import { rateable } from "/static/thumbs.js";

const $ = (id) => document.getElementById(id);
const state = { csrf: "", request: {}, messages: [], conversation: "", system: "", agreed: false, abort: null };

export async function call(method, path, body) {
  const headers = { "x-csrf-token": state.csrf, "content-type": "application/json" };
  const response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const content = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok) throw new Error(content?.error?.message ?? `the server answered ${response.status}`);
  return content;
}

async function begin() {
  const key = new URLSearchParams(location.hash.slice(1)).get("key");
  if (key !== null) history.replaceState(null, "", location.pathname); // the key must not stay in the address
  try {
    if (key !== null) return signedIn(await call("POST", "/session", { key }));
    const greeting = await call("GET", "/session");
    if (greeting.signed_in) return signedIn(greeting);
  } catch (error) {
    showProblem(error);
  }
  $("sign-in").hidden = false;
  $("key").focus();
}

function signedIn(greeting) {
  Object.assign(state, { csrf: greeting.csrf, request: greeting.request, system: greeting.system_prompt });
  document.title = greeting.campaign;
  $("title").textContent = greeting.campaign;
  $("consent-text").textContent = greeting.consent;
  $("sign-in").hidden = true;
  $("chat").hidden = false;
  newConversation();
}

function showProblem(error) {
  $("sign-in-error").textContent = error.message;
  $("sign-in-error").hidden = false;
}

function newConversation() {
  state.abort?.abort();
  state.messages = [];
  state.conversation = crypto.randomUUID?.() ?? Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  $("turns").replaceChildren();
  $("number").textContent = `Conversation ${state.conversation}`;
  $("forget").hidden = true;
  $("message").focus();
}

function showConsent() {
  state.agreed = $("agree").checked;
  $("consent-state").textContent = state.agreed
    ? "You can rate and correct the answers below. You can change your mind at any time."
    : "You may chat. Nothing is kept, and answers cannot be rated.";
  for (const rating of document.querySelectorAll(".answer[data-done] .rate")) rating.hidden = !state.agreed;
  if (!state.agreed) for (const form of document.querySelectorAll(".correction")) form.hidden = true;
}

function turn(template) {
  $("turns").append($(template).content.cloneNode(true));
  return $("turns").lastElementChild;
}

async function ask(text) {
  turn("user-turn").querySelector(".bubble").textContent = text;
  state.messages.push({ role: "user", content: text });
  const asked = [...(state.system ? [{ role: "system", content: state.system }] : []), ...state.messages];
  const item = turn("answer-turn");
  const shown = item.querySelector(".text");
  item.scrollIntoView({ block: "end" });
  state.abort = new AbortController();
  busy(true);
  const answer = { id: null, text: "" };
  try {
    await stream(asked, answer, shown);
    if (!answer.text.trim()) throw new Error("the answer is empty");
    state.messages.push({ role: "assistant", content: answer.text });
    await render(shown, answer.text);
    rateable(item, { asked, answer, conversation: state.conversation, call, onKept: () => ($("forget").hidden = false) });
    item.dataset.done = "";
    $("status").textContent = `Answer: ${answer.text}`;
  } catch (error) {
    state.messages.pop();
    const problem = item.querySelector(".problem");
    problem.textContent = error.name === "AbortError" ? "You stopped this answer." : `No answer: ${error.message}.`;
    problem.hidden = false;
    $("status").textContent = problem.textContent;
    if (error.name !== "AbortError" && !$("message").value) $("message").value = text;
  }
  shown.removeAttribute("aria-busy");
  state.abort = null;
  busy(false);
  showConsent();
}

async function render(shown, text) {
  try {
    shown.innerHTML = (await call("POST", "/render", { text })).html; // safe_html() on the server
    shown.classList.remove("plain");
  } catch {
    shown.textContent = text; // the answer is there: it stays as it came
  }
}

async function stream(messages, answer, shown) {
  const headers = { "x-csrf-token": state.csrf, "content-type": "application/json", "x-conversation-id": state.conversation };
  const body = JSON.stringify({ ...state.request, messages, stream: true });
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, body, signal: state.abort.signal });
  if (!response.ok) throw new Error((await response.json().catch(() => null))?.error?.message ?? `the server answered ${response.status}`);
  shown.classList.add("plain");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data: {")) take(JSON.parse(line.slice(6)), answer, shown);
  }
}

function take(event, answer, shown) {
  if (event.error) throw new Error(event.error.message ?? "the model's server failed");
  answer.id = event.id ?? answer.id;
  const part = event.choices?.[0]?.delta?.content;
  if (!part) return;
  answer.text += part;
  shown.textContent = answer.text; // text, never HTML, while it streams
  const scroll = $("scroll");
  if (scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120) scroll.scrollTop = scroll.scrollHeight;
}

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  $("new").disabled = is;
  if (!is) $("message").focus();
}

$("sign-in-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  $("sign-in-error").hidden = true;
  try {
    signedIn(await call("POST", "/session", { key: $("key").value }));
    $("key").value = "";
  } catch (error) {
    showProblem(error);
  }
});
$("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value.trim();
  if (!text || state.abort) return;
  $("message").value = "";
  ask(text);
});
$("message").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $("ask").requestSubmit();
});
$("agree").addEventListener("change", showConsent);
$("stop").addEventListener("click", () => state.abort?.abort());
$("new").addEventListener("click", newConversation);
$("sign-out").addEventListener("click", async () => {
  await call("DELETE", "/session");
  location.reload();
});
$("forget").addEventListener("click", async () => {
  let deleted;
  try {
    ({ deleted } = await call("DELETE", `/feedback/${encodeURIComponent(state.conversation)}`));
  } catch (error) {
    $("status").textContent = $("number").textContent = `Nothing is deleted: ${error.message}. Try again: conversation ${state.conversation}`;
    return;
  }
  $("forget").hidden = true;
  for (const said of document.querySelectorAll(".said")) said.textContent = "";
  for (const thumb of document.querySelectorAll(".thumb")) thumb.setAttribute("aria-pressed", "false");
  $("status").textContent = $("number").textContent = `Deleted: ${deleted} of conversation ${state.conversation}`;
});
addEventListener("hashchange", begin);
showConsent();
begin();

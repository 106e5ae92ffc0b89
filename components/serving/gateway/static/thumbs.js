// Thumbs and corrections of one answer. Each is sent under a name of its own, so that a repetition counts once.

export function rateable(item, { asked, answer, conversation, call, onKept }) {
  const rating = item.querySelector(".rate");
  const form = item.querySelector(".correction");
  const said = item.querySelector(".said");
  const up = item.querySelector(".up");
  const down = item.querySelector(".down");
  const open = item.querySelector(".correct");
  const field = form.querySelector("textarea");
  let last = null;

  async function send(thumb, correction) {
    const content = JSON.stringify([thumb, correction]);
    if (last?.content !== content) last = { content, client_id: name() };
    said.textContent = "Sending …";
    try {
      await call("POST", "/feedback", {
        client_id: last.client_id, conversation_id: conversation, completion_id: answer.id, messages: asked,
        response: answer.text, thumb, consent: true, ...(correction ? { correction } : {}),
      });
    } catch (error) {
      said.textContent = `Not kept: ${error.message}. Try again.`;
      return false;
    }
    up.setAttribute("aria-pressed", String(thumb === "up"));
    down.setAttribute("aria-pressed", String(thumb === "down"));
    said.textContent = correction ? "Thank you, your correction is kept." : "Thank you, your rating is kept.";
    onKept();
    return true;
  }

  function show(visible) {
    form.hidden = !visible;
    open.setAttribute("aria-expanded", String(visible));
    if (visible && !field.value) field.value = answer.text;
    (visible ? field : open).focus();
    if (visible) form.scrollIntoView({ block: "nearest" });
  }

  up.addEventListener("click", () => send("up"));
  down.addEventListener("click", () => send("down"));
  open.addEventListener("click", () => show(form.hidden));
  form.querySelector(".cancel").addEventListener("click", () => show(false));
  form.addEventListener("keydown", (event) => {
    if (event.key === "Escape") show(false);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const correction = field.value.trim();
    if (correction === answer.text.trim()) said.textContent = "Change the text first: it is still the answer.";
    else if (correction && (await send("down", correction))) show(false);
  });
  rating.hidden = false;
}

function name() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Shows a start as the event log tells it, and cancels it. `html_message` comes escaped from the hub.
(function () {
  "use strict";
  const box = document.getElementById("farlab-progress");
  const bar = box.querySelector(".farlab-bar");
  const now = box.querySelector(".farlab-now");
  const log = box.querySelector(".farlab-log");
  const cancel = box.querySelector('[data-action="cancel"]');
  const again = box.querySelector('[data-action="again"]');
  const seen = new Set();
  const source = new EventSource(box.dataset.progressUrl);
  let cancelling = false;

  function put(element, said) {
    if (said.html_message) element.innerHTML = said.html_message;
    else element.textContent = said.message || "";
  }

  function advance(percent) {
    bar.setAttribute("aria-valuenow", percent);
    bar.firstElementChild.style.width = `${percent}%`;
  }

  function note(said) {
    const key = `${said.at || ""}|${said.event || ""}|${said.message}`;
    if (seen.has(key)) return;
    seen.add(key);
    const line = document.createElement("li");
    const time = document.createElement("time");
    const at = said.at ? new Date(said.at) : new Date();
    time.dateTime = at.toISOString();
    time.textContent = at.toLocaleTimeString([], { hourCycle: "h23" });
    const text = document.createElement("span");
    put(text, said);
    line.append(time, text);
    log.append(line);
    log.scrollTop = log.scrollHeight;
  }

  function over(title) {
    source.close();
    box.querySelector("h1").textContent = title;
    box.querySelector(".farlab-hint").hidden = true;
    cancel.hidden = true;
    again.href = box.dataset.spawnUrl;
    again.hidden = false;
    again.focus();
  }

  source.onmessage = (message) => {
    const said = JSON.parse(message.data);
    if (cancelling && said.ready) return;
    if (said.progress !== undefined) advance(said.progress);
    put(now, said);
    if (said.at || said.failed) note(said);
    if (said.ready) {
      source.close();
      window.location.reload();
    } else if (said.failed) {
      box.classList.add("farlab-failed");
      over(cancelling ? "The start was cancelled" : "The start did not succeed");
    }
  };

  cancel.addEventListener("click", async () => {
    cancelling = true;
    cancel.disabled = true;
    now.textContent = "Cancelling ...";
    try {
      const answer = await fetch(box.dataset.serverUrl, {
        method: "DELETE",
        headers: { "X-XSRFToken": box.dataset.xsrf, "Content-Type": "application/json" },
        credentials: "same-origin",
      });
      if (!answer.ok) throw new Error(`the hub answered ${answer.status}`);
      advance(100);
      now.textContent = answer.status === 202 ? "Cancelled; the job is being cleared away." : "Cancelled.";
      over("The start was cancelled");
    } catch (error) {
      cancelling = false;
      cancel.disabled = false;
      now.textContent = `Cancelling did not work (${error.message}). Try again.`;
    }
  });

  window._jupyterhub_page_loaded = true;
})();

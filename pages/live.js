// Puts each new view into the page. What is focused or scrolled is never replaced.
"use strict";

const QUIET_MILLISECONDS = 20000;
const pause = document.getElementById("pause");
const lost = document.getElementById("lost");
const said = document.getElementById("said");
let waiting = null; // the newest view, while the reader has paused
let heard = Date.now(); // when something was last said aloud
let toSay = "";

function show(view) {
  document.title = view.title;
  for (const [id, html] of Object.entries(view.parts)) {
    const part = document.getElementById(id);
    if (part.dataset.shown !== html) {
      part.innerHTML = html;
      part.dataset.shown = html;
    }
  }
  toSay = view.said;
}

// A screen reader hears the last news, and not more often than it can be listened to.
function speak() {
  if (toSay && toSay !== said.textContent && Date.now() - heard >= QUIET_MILLISECONDS) {
    said.textContent = toSay;
    heard = Date.now();
  }
}

function paused() {
  return pause.getAttribute("aria-pressed") === "true";
}

pause.addEventListener("click", () => {
  pause.setAttribute("aria-pressed", String(!paused()));
  if (!paused() && waiting) {
    show(waiting);
    waiting = null;
  }
});

const source = new EventSource("/events");
source.addEventListener("view", (event) => {
  const view = JSON.parse(event.data);
  if (paused()) {
    waiting = view;
  } else {
    show(view);
  }
});
source.addEventListener("open", () => { lost.hidden = true; });
source.addEventListener("error", () => { lost.hidden = false; });
setInterval(speak, 1000);
pause.hidden = false;

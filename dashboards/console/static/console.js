// What pages do beyond links and forms. Without it every page reads the same, in UTC.
"use strict";

const inZone = new Intl.DateTimeFormat("sv-SE", {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", second: "2-digit",
});

/** Show times in the viewer's zone; UTC stays in the title. */
function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]:not([data-local])")) {
    const moment = new Date(time.dateTime);
    if (!Number.isNaN(moment.valueOf())) {
      time.textContent = inZone.format(moment);
      time.dataset.local = "";
    }
  }
}

/** Put the part of a run's page that changed in place, and the state into the title. */
function replaced(part, fragment) {
  const log = part.querySelector(".log"), atEnd = !log || log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const open = document.activeElement?.closest?.("#progress button");
  if (open && !/data-finished="true"/.test(fragment)) return; // whoever is about to cancel keeps the button
  part.innerHTML = fragment;
  const title = part.querySelector("[data-title]")?.dataset.title;
  if (title) document.title = `${title} · Requant`;
  const newLog = part.querySelector(".log");
  if (newLog && atEnd) newLog.scrollTop = newLog.scrollHeight;
  localTimes(part);
}

/** Watch a run: by server-sent events, and by asking every two seconds where they fail. */
function watch(part) {
  const stream = new EventSource(`${part.dataset.live}/events`);
  stream.addEventListener("progress", (event) => replaced(part, JSON.parse(event.data)));
  stream.addEventListener("finished", () => stream.close());
  stream.addEventListener("error", () => { stream.close(); poll(part); });
}

/** Say above what was known last that nothing newer came; the next answer takes its place. */
function missing(part, sentence) {
  const note = part.querySelector("#missing") ?? document.createElement("p");
  Object.assign(note, { id: "missing", className: "note" });
  note.setAttribute("role", "status");
  note.textContent = sentence || "The console does not answer. What it said last is shown below; this page keeps asking.";
  part.prepend(note);
}

async function poll(part) {
  try {
    const answer = await fetch(`${part.dataset.live}/progress`);
    const known = answer.ok && !answer.redirected; // else an error's page, or where people sign in
    if (known) replaced(part, await answer.text());
    else missing(part, answer.status < 500 && `The console answers no more (${answer.status}): reload this page.`);
    if (answer.status === 286 || (!known && answer.status < 500)) return;
  } catch { missing(part); }
  setTimeout(poll, 2000, part);
}

document.addEventListener("DOMContentLoaded", () => {
  localTimes(document);
  for (const part of document.querySelectorAll("[data-live]")) watch(part);
});
document.addEventListener("htmx:load", (event) => localTimes(event.target));

// The page of a study. The server knows where a rater is; this shows it, and sends one answer at a time until it is taken.
"use strict";

const byId = (id) => document.getElementById(id);
const questions = [...document.querySelectorAll(".question")];
const keys = { ArrowLeft: "left", 1: "left", ArrowDown: "none", 2: "none", ArrowRight: "right", 3: "right" };
let state = {};
let busy = true;      // while a request is under way or the images are loading, no answer is taken

const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, "0")).join("");

function trouble(words) {
  byId("trouble").textContent = words;
  byId("trouble").hidden = !words;
}

// Ask until there is an answer: the same request with the same key, so that one that arrived twice counts once.
async function ask(path, body) {
  const options = body && { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
  for (let wait = 500; ; wait = Math.min(2 * wait, 8000)) {
    try {
      const answer = await fetch(path, options);
      if (answer.ok) {
        trouble("");
        return await answer.json();
      }
      if (answer.status !== 429 && answer.status < 500) {
        trouble((await answer.json()).error);
        return null;
      }
      trouble("The study is busy. Your answer is kept and sent again in a moment.");
    } catch {
      trouble("No connection to the study. Your answer is kept and sent again in a moment.");
    }
    await pause(wait);
  }
}

const open = (question) => !state.pair?.answers[question.dataset.question];

// The question that a key answers: the focused one if it is open, else the first that is.
function current() {
  const focused = document.activeElement.closest?.(".question");
  return focused && open(focused) ? focused : questions.find(open);
}

function mark() {
  const first = questions.find(open);
  for (const question of questions) {
    question.classList.toggle("current", question === first);
    for (const button of question.querySelectorAll("button")) {
      const chosen = state.pair?.answers[question.dataset.question] === button.dataset.side;
      button.setAttribute("aria-pressed", chosen);
    }
  }
}

// Resolves too when an image cannot be had: a pair must not hold up the rest.
function load(image, address) {
  return new Promise((done) => {
    image.classList.remove("ready");
    image.onload = () => {
      image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < 160);
      image.classList.add("ready");
      done(true);
    };
    image.onerror = () => done(false);
    image.src = address;
  });
}

async function showPair(before) {
  const pair = state.pair;
  byId("text").textContent = pair.text ?? "";
  byId("text").hidden = pair.text === null;
  document.documentElement.classList.toggle("long", (pair.text ?? "").length > 90);
  if (pair.number !== before) {
    const there = await Promise.all([load(byId("left"), pair.left), load(byId("right"), pair.right)]);
    if (there.includes(false)) trouble("An image of this pair cannot be loaded. Reload the page, or tell whoever sent you the link.");
    const focused = document.activeElement.closest?.(".question");
    if (focused) questions[0].focus();
    byId("said").textContent = `Pair ${state.done + 1} of ${state.total}. ${pair.text ?? ""}`;
    for (const address of state.next) new Image().src = address;
  }
}

async function show(found) {
  const before = state.pair?.number;
  state = found;
  const joined = "total" in state;
  byId("welcome").hidden = joined;
  byId("progress").hidden = byId("footer").hidden = !joined;
  byId("rate").hidden = !state.pair;
  byId("end").hidden = !joined || Boolean(state.pair);
  if (joined) {
    byId("bar").value = state.done;
    byId("count").textContent = state.pair ? `Pair ${state.done + 1} of ${state.total}` : `${state.total} of ${state.total}`;
    byId("undo").disabled = !state.undo;
  }
  mark();
  if (state.pair) await showPair(before);
  else if (joined) byId("thanks").focus();
  busy = false;
}

async function answer(question, side) {
  if (busy || !state.pair) return;
  busy = true;
  const name = question.dataset.question;
  state.pair.answers[name] = side;
  mark();
  const body = { pair: state.pair.number, question: name, side, key: newKey() };
  const [found] = await Promise.all([ask("api/vote", body), pause(150)]);      // the choice is seen before the pair goes
  if (found) await show(found);
  else busy = false;
}

async function undo() {
  if (busy || !state.undo) return;
  busy = true;
  const found = await ask("api/undo", state.undo);
  if (found) await show(found);
  else busy = false;
}

for (const question of questions) {
  for (const button of question.querySelectorAll("button")) {
    button.addEventListener("click", () => answer(question, button.dataset.side));
  }
}
byId("undo").addEventListener("click", undo);

for (const picture of document.querySelectorAll("[data-picture]")) {
  picture.addEventListener("click", () => {
    const image = picture.querySelector("img");
    byId("large-image").src = image.src;
    byId("large-image").alt = image.alt;
    byId("large-image").className = image.className;
    byId("large").showModal();
  });
}
for (const id of ["close", "large-image"]) byId(id).addEventListener("click", () => byId("large").close());

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey || byId("large").open) return;
  if (event.target.matches("input") || !("total" in state)) return;
  if (event.key in keys && state.pair) {
    event.preventDefault();
    const question = current();
    if (question) answer(question, keys[event.key]);
  } else if (event.key.toLowerCase() === "u") {
    undo();
  }
});

byId("join").addEventListener("submit", async (event) => {
  event.preventDefault();
  const found = await ask("api/join", { name: byId("name").value });
  if (!found) return;
  await show(await ask("api/state"));
  if (!("total" in state)) trouble("This browser keeps no cookies for this page. Allow them, and reload.");
});

document.documentElement.classList.toggle("one", questions.length === 1);
ask("api/state").then((found) => found && show(found));

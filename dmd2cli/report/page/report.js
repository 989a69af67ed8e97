// What the page does beyond being read: values under a cursor, and one picture at a time. All of it is there without this.
"use strict";

document.body.classList.add("scripted");

// The values of a line, parsed when they are first asked for.
function points(line) {
  line.points ??= line.dataset.values.split(" ").filter(Boolean).map((pair) => pair.split(",").map(Number));
  return line.points;
}

// The place of the last point at or before a step; points rise.
function before(found, step) {
  let low = 0, high = found.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (found[middle][0] <= step) low = middle + 1; else high = middle;
  }
  return Math.max(0, low - 1);
}

function nearest(found, step) {
  const i = before(found, step);
  const closer = i + 1 < found.length && found[i + 1][0] - step < step - found[i][0];
  return found[closer ? i + 1 : i];
}

function said(run, words) {
  const part = document.createElement("span");
  if (run) part.append(Object.assign(document.createElement("b"), { textContent: run }), " ");
  part.append(words);
  return part;
}

for (const chart of document.querySelectorAll(".chart")) {
  const svg = chart.querySelector("svg"), read = chart.querySelector(".read"), newest = [...read.childNodes];
  const lines = [...svg.querySelectorAll(".raw")].filter((line) => line.dataset.values);
  const [left, right, last] = ["left", "right", "last"].map((key) => Number(svg.dataset[key]));
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y1", 10);
  cursor.setAttribute("y2", 166);
  let now = null;

  function show(step) {
    now = Math.min(last, Math.max(0, step));
    const x = left + (right - left) * now / last;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    svg.append(cursor);
    const found = lines.map((line) => [line.dataset.run, ...nearest(points(line), now)]);
    const together = found.every(([, at]) => at === found[0][1]);
    read.replaceChildren(...found.flatMap(([run, at, value]) => [said(run, together ? value : `${value} at step ${at.toLocaleString("en")}`), " "]));
    if (together) read.append(said("", `at step ${found[0][1].toLocaleString("en")}`));
  }

  function leave() {
    now = null;
    cursor.remove();
    read.replaceChildren(...newest);
  }

  function key(event) {
    if (event.key === "Escape") return leave();
    const direction = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (!direction || !lines.length) return;
    event.preventDefault();
    const found = points(lines[0]), here = now === null ? last : now;
    const i = found.indexOf(nearest(found, here)) + (now === null && Number.isFinite(direction) ? 0 : direction);
    show(found[Math.min(found.length - 1, Math.max(0, i))][0]);
  }

  if (!lines.length) continue;
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    show(((event.clientX - box.left) / box.width * 360 - left) / (right - left) * last);
  });
  svg.addEventListener("pointerleave", leave);
  svg.addEventListener("blur", leave);
  svg.addEventListener("keydown", key);
  svg.addEventListener("focus", () => read.setAttribute("aria-live", "polite"));
}

for (const film of document.querySelectorAll(".film")) {
  const frames = [...film.querySelectorAll(".frame")], slide = film.querySelector(".slide");
  if (!slide) continue;
  const range = slide.querySelector("input");
  const show = () => {
    frames.forEach((frame, i) => { frame.hidden = i !== Number(range.value); });
    range.setAttribute("aria-valuetext", frames[range.value].querySelector("figcaption").textContent);
  };
  film.classList.add("moving");
  slide.hidden = false;
  range.addEventListener("input", show);
  show();
}

// A link to a protocol opens it.
addEventListener("hashchange", () => {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
});

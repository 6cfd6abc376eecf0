"use strict";
// What is drawn for trials 3 and 5 says data-trials="3 5", in plots and tables alike; pointing at one lights all others.
const tip = document.getElementById("tip");
const rows = new Map();
for (const row of document.querySelectorAll("#trials tbody tr")) rows.set(row.dataset.trials, row);
const shown = new Map();
for (const part of document.querySelectorAll("[data-trials]"))
  for (const trial of part.dataset.trials.split(" ")) {
    if (!shown.has(trial)) shown.set(trial, []);
    shown.get(trial).push(part);
  }
let lit = [];

function clear() {
  for (const part of lit) part.classList.remove("lit");
  lit = [];
  tip.textContent = "";
}

function highlight(part, x, y) {
  clear();
  const trials = part.dataset.trials.split(" ");
  for (const trial of trials)
    for (const other of shown.get(trial) || []) {
      // A mark for many trials is lit by a mark for one of them, but not a whole group by a neighbour's mean.
      if (other !== part && other.dataset.trials.split(" ").length > trials.length && trials.length > 1) continue;
      other.classList.add("lit");
      lit.push(other);
    }
  tip.textContent = part.dataset.tip || describe(trials);
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 4)) + "px";
  tip.style.top = Math.max(4, y + 18 + box.height > innerHeight ? y - box.height - 10 : y + 18) + "px";
}

function describe(trials) {
  const found = trials.map((trial) => rows.get(trial)).filter(Boolean);
  if (!found.length) return "";
  const heads = [...document.querySelectorAll("#trials thead th")].map((head) => head.textContent);
  const cells = [...found[0].cells].map((cell) => cell.textContent);
  const lines = heads.map((head, index) => head + ": " + cells[index]);
  return found.length === 1 ? lines.join("\n") : found.length + " trials, the best of them:\n" + lines.join("\n");
}

function middle(part) {
  const box = part.getBoundingClientRect();
  return [box.left + box.width / 2, box.top + box.height / 2];
}

document.addEventListener("mouseover", (event) => {
  const part = event.target.closest("[data-trials]");
  if (part) highlight(part, event.clientX, event.clientY);
  else clear();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") clear();
});

// One stop of the Tab key for each plot and table; in it keys go from trial to trial. Left and right scroll a table.
const STEPS = { ArrowDown: 1, ArrowUp: -1, Enter: 1, " ": 1 };
const ACROSS = { ArrowRight: 1, ArrowLeft: -1 };
for (const home of document.querySelectorAll("[data-walk]")) {
  let at = -1;
  home.addEventListener("keydown", (event) => {
    const step = STEPS[event.key] || (home.querySelector("table") ? 0 : ACROSS[event.key]);
    if (!step || event.target !== home || event.ctrlKey || event.metaKey || event.altKey) return;
    const parts = home.querySelectorAll("[data-trials]");
    if (!parts.length) return;
    event.preventDefault();
    at = at < 0 && step < 0 ? parts.length - 1 : (at + step + parts.length) % parts.length;
    parts[at].scrollIntoView({ block: "nearest", inline: "nearest" });
    highlight(parts[at], ...middle(parts[at]));
  });
  home.addEventListener("blur", clear);
}

// Paper cannot be unfolded.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details")) part.open = true;
});

// A click on a head sorts by it, a second one the other way round; what has no value stays last.
for (const button of document.querySelectorAll("thead button"))
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const up = head.getAttribute("aria-sort") !== "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const cell = row.cells[head.cellIndex];
      return cell.dataset.value === undefined ? cell.textContent : cell.dataset.value && Number(cell.dataset.value);
    };
    const compare = (one, other) => {
      const [a, b] = [value(one), value(other)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return up ? order : -order;
    };
    body.append(...[...body.rows].sort(compare));
  });

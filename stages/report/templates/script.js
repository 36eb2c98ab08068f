"use strict";
// Tables: a click, Enter or Space on a head sorts by its column; again turns the order around.
const said = document.getElementById("said");
function sortBy(head) {
  const table = head.closest("table");
  const column = [...head.parentNode.children].indexOf(head);
  const cell = (row) => row.children[column];
  const rows = [...table.tBodies[0].rows];
  const numeric = rows.some((row) => cell(row).dataset.value !== undefined);
  const first = numeric ? "descending" : "ascending";
  const order = head.getAttribute("aria-sort") === first ? (numeric ? "ascending" : "descending") : first;
  const value = (row) => numeric ? Number(cell(row).dataset.value ?? -Infinity) : cell(row).textContent.trim();
  rows.sort((a, b) => {
    const [x, y] = [value(a), value(b)];
    const difference = numeric ? (x === y ? 0 : x - y) : x.localeCompare(y);
    return order === "ascending" ? difference : -difference;
  });
  for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", order);
  table.tBodies[0].append(...rows);
  said.textContent = `${table.caption.textContent}: sorted by ${head.textContent.trim()}, ${order}`;
}
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// Samples: tokens are coloured by the chosen layer's expert.
const controls = document.querySelector(".controls");
if (controls) {
  const layer = document.getElementById("layer");
  const detail = document.getElementById("token");
  const hue = (expert) => Math.round(expert * 137.508) % 360;
  const tokens = [...document.querySelectorAll(".token")];
  const tell = (token) => {
    const place = Number(layer.value);
    const probability = JSON.parse(token.dataset.probabilities)[place];
    detail.textContent = `“${token.textContent.trim()}”: expert ${token.dataset.expert}, probability ${probability.toFixed(3)}`;
  };
  const colour = () => {
    for (const token of tokens) {
      const expert = JSON.parse(token.dataset.experts)[Number(layer.value)];
      token.dataset.expert = expert;
      token.style.setProperty("--hue", hue(expert));
    }
    for (const sample of document.querySelectorAll(".sample")) {
      const counts = new Map();
      for (const token of sample.querySelectorAll(".token")) {
        const expert = Number(token.dataset.expert);
        counts.set(expert, (counts.get(expert) ?? 0) + 1);
      }
      const shown = [...counts].sort((a, b) => b[1] - a[1]).map(([expert, count]) => {
        const item = document.createElement("li");
        item.style.setProperty("--hue", hue(expert));
        item.textContent = `expert ${expert}`;
        const number = document.createElement("span");
        number.textContent = count;
        item.append(number);
        return item;
      });
      sample.querySelector(".experts").replaceChildren(...shown);
    }
  };
  for (const token of tokens) {
    token.addEventListener("mouseenter", () => tell(token));
    token.addEventListener("focus", () => tell(token));
    token.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const next = step === 1 ? token.nextElementSibling : step === -1 ? token.previousElementSibling : null;
      if (!next) return;
      event.preventDefault();
      token.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
  }
  layer.addEventListener("change", colour);
  document.getElementById("numbers").addEventListener("change", (event) => {
    for (const line of document.querySelectorAll(".tokens")) line.classList.toggle("numbered", event.target.checked);
  });
  controls.hidden = false;
  colour(); // a browser may remember the choice
}

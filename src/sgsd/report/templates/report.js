"use strict";
(() => {
  const SHADES = 4;
  const root = document.documentElement;
  const tip = document.getElementById("tip");
  const keys = document.getElementById("keys");
  const cards = [...document.querySelectorAll(".rollout")];
  root.classList.add("script");

  // Everything is put on the page as text, never as markup: rollouts are not to be trusted.
  function showTip(title, lines, x, y) {
    const head = document.createElement("b");
    head.textContent = title;
    tip.replaceChildren(head, document.createTextNode("\n" + lines.join("\n")));
    tip.hidden = false;
    const left = x + 16 + tip.offsetWidth > innerWidth ? x - tip.offsetWidth - 12 : x + 16;
    const top = y + 16 + tip.offsetHeight > innerHeight ? y - tip.offsetHeight - 12 : y + 16;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, top) + "px";
  }
  const hideTip = () => { tip.hidden = true; };
  const minus = (text) => text.replace("-", "\u2212");
  const signed = (value, digits) => (value > 0 ? "+" : "") + minus(value.toFixed(digits));
  function tidy(value, unit) {
    if (unit === "%") return (100 * value).toFixed(1) + "\u00a0%";
    const size = Math.abs(value);
    const text = size && (size < 1e-3 || size >= 1e6) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
    return minus(unit ? text + "\u00a0" + unit : text);
  }

  // Curves: the nearest step under the pointer.
  for (const plot of document.querySelectorAll("svg[data-readout]")) {
    const { domain, x, rows } = JSON.parse(plot.dataset.readout);
    const [left, right, top, bottom] = plot.dataset.plot.split(" ").map(Number);
    const cross = plot.querySelector(".cross");
    const place = (value) => left + (value - domain[0]) / (domain[1] - domain[0]) * (right - left);
    const leave = () => { hideTip(); cross.setAttribute("d", ""); };
    plot.addEventListener("pointermove", (event) => {
      if (!x.length) return;
      const box = plot.getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width * plot.viewBox.baseVal.width;
      const nearest = x.reduce((best, value, i) => Math.abs(place(value) - at) < Math.abs(place(x[best]) - at) ? i : best, 0);
      const known = rows.filter(([, , values]) => values[nearest] !== null);
      cross.setAttribute("d", `M${place(x[nearest])} ${top}V${bottom}`);
      showTip("step " + x[nearest], known.map(([name, unit, values]) => name + "  " + tidy(values[nearest], unit)), event.clientX, event.clientY);
    });
    plot.addEventListener("pointerleave", leave);
    plot.addEventListener("pointercancel", leave);
  }

  // Rollouts: the numbers of a token, and what colours it.
  const list = (text, scale) => text ? text.split(",").map((part) => part === "" ? NaN : Number(part) / scale) : [];
  const teachersOf = (card) => [...card.querySelectorAll("input[data-delta]")];
  const spansOf = (card) => [...card.querySelector(".tokens").children];
  const numbers = new WeakMap();
  function numbersOf(card) {
    if (!numbers.has(card)) {
      numbers.set(card, {
        spans: card.dataset.colouring === "none" ? [] : spansOf(card),
        advantages: list(card.querySelector(".tokens").dataset.advantages, 1),
        teachers: teachersOf(card).map((input) => ({
          name: "Δ" + input.value, delta: list(input.dataset.delta, 1000), gate: list(input.dataset.gate, 1000),
        })),
      });
    }
    return numbers.get(card);
  }

  function describe(span) {
    const { spans, advantages, teachers } = numbersOf(span.closest(".rollout"));
    const i = spans.indexOf(span);
    const lines = [span.classList.contains("out") ? "left out of the loss by the mask" : "token " + (i + 1) + " of " + spans.length];
    if (Number.isFinite(advantages[i])) lines.push("advantage " + signed(advantages[i], 4));
    for (const { name, delta, gate } of teachers) {
      if (!Number.isFinite(delta[i])) continue;
      lines.push(name + " " + signed(delta[i], 3) + (Number.isFinite(gate[i]) ? "  gate " + gate[i].toFixed(3) : ""));
    }
    const box = span.getBoundingClientRect();
    showTip("“" + span.textContent.replaceAll("\n", "") + "”", lines, box.left, box.bottom - 8);
  }

  function shade(value, limit) {
    return Number.isFinite(value) ? Math.max(-SHADES, Math.min(SHADES, Math.floor(SHADES * value / limit + 0.5))) : 0;
  }

  function colour(card, choice) {
    const { spans, advantages, teachers } = numbersOf(card);
    const byAdvantage = choice.value === "advantage";
    const values = byAdvantage ? advantages : teachers[teachersOf(card).indexOf(choice)].delta;
    const limit = Number(byAdvantage ? card.dataset.advantageLimit : card.dataset.deltaLimit);
    card.dataset.colouring = byAdvantage ? "advantage" : "delta";
    spans.forEach((span, i) => {
      if (span.classList.contains("out")) return;
      const step = shade(values[i], limit);
      span.className = (step ? "q" + step : "") + (span === token ? " here" : "");
    });
  }

  for (const card of cards) {
    const tokens = card.querySelector(".tokens");
    const over = (event) => {
      const span = event.target.closest(".tokens > span");
      if (span) describe(span); else hideTip();
    };
    tokens.addEventListener("pointerover", over);
    tokens.addEventListener("click", over);
    tokens.addEventListener("pointerleave", hideTip);
    card.addEventListener("change", (event) => colour(card, event.target));
  }

  let current = -1;
  let token = null;
  // A key may scroll to its token: the numbers then follow the token, while those of the pointer are gone.
  addEventListener("scroll", () => { if (token) describe(token); else hideTip(); }, { passive: true });
  function leaveToken() {
    if (token) token.classList.remove("here");
    token = null;
    hideTip();
  }
  // The card that has the focus, by key or by click, or else the last one that a key went to.
  function whereWeAre() {
    const focused = cards.indexOf(document.activeElement.closest(".rollout"));
    if (focused >= 0) current = focused;
    return current;
  }
  function go(by) {
    if (!cards.length) return;
    leaveToken();
    current = Math.max(0, Math.min(cards.length - 1, whereWeAre() + by));
    cards[current].focus({ preventScroll: true });
    cards[current].scrollIntoView({ block: "start", behavior: "instant" });
  }
  function step(by) {
    if (whereWeAre() < 0) go(1);
    if (current < 0) return;
    const { spans } = numbersOf(cards[current]);
    const next = spans[spans.indexOf(token) + by] ?? (token ? null : spans[0]);
    if (!next) return;
    leaveToken();
    token = next;
    token.classList.add("here");
    token.scrollIntoView({ block: "nearest", behavior: "instant" });
    describe(token);
  }
  function nextColour() {
    const choices = whereWeAre() < 0 ? [] : [...cards[current].querySelectorAll("input:enabled")];
    if (!choices.length) return;
    const choice = choices[(choices.findIndex((input) => input.checked) + 1) % choices.length];
    choice.checked = true;
    colour(cards[current], choice);
  }
  function toggleKeys() {
    if (keys.open) keys.close(); else keys.showModal();
  }

  const actions = {
    j: () => go(1), ArrowRight: () => go(1), k: () => go(-1), ArrowLeft: () => go(-1),
    l: () => step(1), h: () => step(-1), c: nextColour, Escape: leaveToken, "?": toggleKeys,
  };
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // Arrows belong to the radio buttons while one has the focus, and to scrolling boxes.
    if (event.key.startsWith("Arrow") && event.target.closest("input, pre, .scroll")) return;
    if (keys.open && event.key !== "?") return;
    const action = actions[event.key];
    if (!action) return;
    if (event.key !== "Escape") event.preventDefault();
    action();
  });
  document.getElementById("show-keys")?.addEventListener("click", toggleKeys);

  // On paper nothing can be unfolded.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
})();

// Keys that A1111 users' hands know: Ctrl+Enter, Esc, weights with Ctrl+Up/Down, parts moved with Alt+Left/Right.
(function (easel) {
  "use strict";

  const STEP = 0.1;

  // [start, end) of what a weight key acts on: the selection, else the bracketed (x:1.2) around the caret, else the word.
  function target(text, from, to) {
    if (from !== to) {
      while (from < to && /\s/.test(text[from])) from += 1;
      while (to > from && /\s/.test(text[to - 1])) to -= 1;
      return [from, to];
    }
    for (const match of text.matchAll(/\((?:[^()\\]|\\.)*:\s*[\d.]+\s*\)/g)) {
      if (match.index <= from && from <= match.index + match[0].length) return [match.index, match.index + match[0].length];
    }
    const stop = /[\s,()[\]|]/;
    while (from > 0 && !stop.test(text[from - 1])) from -= 1;
    while (to < text.length && !stop.test(text[to])) to += 1;
    return [from, to];
  }

  // The text with the weight of [from, to) changed, and the new selection. ((x)) counts as (x:1.21).
  easel.weighted = (text, from, to, change) => {
    [from, to] = target(text, from, to);
    if (from === to) return null;
    if (text[from - 1] === "(" && /^:\s*[\d.]+\s*\)/.test(text.slice(to))) {
      // the words inside (words:1.2) are selected: take the brackets in
      to += text.slice(to).match(/^:\s*[\d.]+\s*\)/)[0].length;
      from -= 1;
    }
    let words = text.slice(from, to), weight = 1;
    const given = words.match(/^\((.*):\s*([\d.]+)\s*\)$/s);
    if (given) {
      words = given[1];
      weight = Number(given[2]) || 1;
    } else {
      let nested;
      while ((nested = words.match(/^\((.*)\)$/s)) && !/[()]/.test(nested[1].replace(/^\(+|\)+$/g, ""))) {
        words = nested[1];
        weight *= 1.1;
      }
    }
    weight = Math.max(0, Math.round((weight + change) * 100) / 100);
    const plain = Math.abs(weight - 1) < 0.005;
    const written = plain ? words : `(${words}:${weight})`;
    const start = plain ? from : from + 1;
    return { from, to, written, selection: [start, start + words.length] };
  };

  // The comma part under the caret changes places with its neighbour.
  easel.moved = (text, caret, direction) => {
    const parts = text.split(",");
    let at = 0, i = 0;
    while (i < parts.length - 1 && caret > at + parts[i].length) {
      at += parts[i].length + 1;
      i += 1;
    }
    const j = i + direction;
    if (j < 0 || j >= parts.length) return null;
    const words = parts.map((part) => part.trim());
    [words[i], words[j]] = [words[j], words[i]];
    const written = words.join(", ");
    const start = words.slice(0, j).reduce((sum, word) => sum + word.length + 2, 0);
    return { from: 0, to: text.length, written, selection: [start, start + words[j].length] };
  };

  // Typed through the browser, so that its own undo (Ctrl+Z) takes it back.
  easel.write = write;
  function write(area, change) {
    area.setSelectionRange(change.from, change.to);
    if (!document.execCommand("insertText", false, change.written)) {
      area.setRangeText(change.written, change.from, change.to);
      area.dispatchEvent(new Event("input", { bubbles: true }));
    }
    area.setSelectionRange(...change.selection);
  }

  document.addEventListener("keydown", (event) => {
    if (event.isComposing || easel.viewerOpen) return;
    const command = event.ctrlKey || event.metaKey;
    if (event.key === "Enter" && command) {
      const button = document.getElementById(`${easel.activeTab()}_generate`);
      if (!button) return;
      event.preventDefault();
      if (event.target.blur && event.target.matches("input[type=number]")) event.target.blur(); // commit what is typed
      setTimeout(() => button.click(), 0);
      return;
    }
    if (event.key === "Escape" && easel.unfinished().length && !event.target.closest('[role="listbox"], .options')) {
      if (event.target.getAttribute && event.target.getAttribute("aria-expanded") === "true") return;
      easel.interrupt();
      return;
    }
    const area = event.target;
    if (!area.matches || !area.matches("textarea") || !area.closest(".prompt-box")) return;
    let change = null;
    if (command && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
      const step = event.key === "ArrowUp" ? STEP : -STEP;
      change = easel.weighted(area.value, area.selectionStart, area.selectionEnd, step);
    } else if (event.altKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      change = easel.moved(area.value, area.selectionStart, event.key === "ArrowLeft" ? -1 : 1);
    } else return;
    event.preventDefault();
    if (change) write(area, change);
  }, true);
})(window.easel);

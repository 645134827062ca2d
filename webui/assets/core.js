// What every other script builds on: elements (text is always textContent), requests, toasts, parts of the page.
(function (easel) {
  "use strict";

  easel.parts = {}; // kind -> build(element, options): see webui/parts/script_part.py
  const listeners = {};
  let trigger = null; // raises an event that webui/parts/bridge.py answers
  const waiting = [];

  easel.on = (name, listener) => (listeners[name] = listeners[name] || []).push(listener);
  easel.emit = (name, data) => (listeners[name] || []).forEach((listener) => listener(data));

  // gradio may put our scripts into the page after it has been read
  easel.whenReady = (action) =>
    document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", () => action()) : setTimeout(action, 0);

  // gradio calls this when one of our places appears (again): the part is built into it.
  easel.mount = (kind, element, options, raise) => {
    if (element.dataset.part === kind && element.firstElementChild) return;
    element.dataset.part = kind;
    easel.parts[kind](element, options, raise);
  };

  easel.bridge = (raise) => {
    trigger = raise;
    waiting.splice(0).forEach(([name, data]) => trigger(name, data));
  };
  easel.send = (name, data) => (trigger ? trigger(name, data) : waiting.push([name, data]));

  // el("button", {class: "x", onclick: f, "aria-label": "y"}, child, "text"): strings become text nodes, never markup.
  easel.el = (tag, attributes, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined));
    return element;
  };

  easel.iconButton = (name, icon, onclick, attributes) =>
    easel.el("button", { type: "button", class: `tool icon-${icon}`, title: name, onclick, ...attributes }, name);

  // Answers of our own server only; a refusal becomes an Error whose message is the server's sentence.
  easel.api = async (path, options) => {
    let answer;
    try {
      answer = await fetch(`/api/v1/${path}`, { credentials: "same-origin", cache: "no-store", ...options });
    } catch {
      throw Object.assign(new Error("Easel does not answer. Is it still running?"), { away: true });
    }
    const isJson = (answer.headers.get("content-type") || "").includes("json");
    const body = isJson ? await answer.json() : null;
    if (!answer.ok) {
      const words = body && body.what ? `${body.what} ${body.todo || ""}`.trim() : `The server answered ${answer.status}.`;
      throw Object.assign(new Error(words), { code: body && body.code });
    }
    return body;
  };
  easel.post = (path, data) =>
    easel.api(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(data === undefined ? {} : data),
    });

  // A picture's bytes, kept by the server: {sha256, width, height, notes}.
  easel.uploads = 0; // on their way
  easel.storeInput = async (body) => {
    easel.uploads += 1;
    try {
      return await easel.api("inputs", { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body });
    } finally {
      easel.uploads -= 1;
    }
  };

  easel.toast = (text, kind) => {
    let box = document.getElementById("easel_toasts");
    if (!box) {
      box = easel.el("div", { id: "easel_toasts", role: "status", "aria-live": "polite" });
      document.body.append(box);
    }
    const toast = easel.el("div", { class: `easel-toast ${kind || "info"}`, onclick: () => toast.remove() }, text);
    box.append(toast);
    setTimeout(() => toast.remove(), kind === "error" ? 9000 : 4000);
  };

  // Which tab is open: its panel is the one that is shown (its button may be in the menu of a narrow screen).
  easel.activeTab = () => {
    const panel = [...document.querySelectorAll('#tabs [role="tabpanel"]')].find((entry) => entry.offsetParent);
    return panel ? panel.id.replace(/^tab_/, "") : "txt2img";
  };
  const LABELS = { png_info: "PNG info", models: "Models", extensions: "Extensions" };
  // By its name, or by what stands on it (tabs of extensions).
  easel.showTab = (name) => {
    const label = LABELS[name] || name;
    const places = [...document.querySelectorAll('#tabs > .tab-wrapper [role="tab"], #tabs .overflow-menu .overflow-dropdown button')];
    const tab = document.getElementById(`tab_${name}-button`) || places.find((entry) => entry.textContent.trim() === label);
    if (tab) tab.click();
  };
  document.addEventListener("click", (event) => {
    if (event.target.closest && event.target.closest("#tabs > .tab-wrapper")) setTimeout(() => easel.emit("tab", easel.activeTab()), 50);
  });

  // localStorage may be full or forbidden: then nothing is remembered, and nothing breaks.
  easel.store = {
    read(name, otherwise) {
      try {
        const text = localStorage.getItem(`easel.${name}`);
        return text === null ? otherwise : JSON.parse(text);
      } catch {
        return otherwise;
      }
    },
    write(name, value) {
      try {
        localStorage.setItem(`easel.${name}`, JSON.stringify(value));
      } catch {
        return; // full or forbidden
      }
    },
  };

  easel.copy = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // no clipboard without https or localhost: the old way
      const area = easel.el("textarea", { class: "off-screen" });
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
    easel.toast("Copied.");
  };

  easel.randomKey = () =>
    [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

  // The request's own help on a field, when the pointer rests on its control; the name of an icon button likewise.
  document.addEventListener("pointerover", (event) => {
    const button = event.target.closest && event.target.closest("button.tool");
    if (button && !button.title) button.title = button.textContent.trim();
    const block = event.target.closest && event.target.closest(".block[id]");
    if (!block || block.title) return;
    const field = block.id.replace(/^(txt2img|img2img|inpaint)_/, "");
    const known = { denoising_strength: "denoise", neg_prompt: "negative_prompt", sampling: "sampler", scheduler: "schedule" };
    const help = easel.helps[known[field] || field];
    if (help && !block.classList.contains("prompt-box")) block.title = help;
  });
})(window.easel);

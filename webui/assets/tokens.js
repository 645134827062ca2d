// Token counters in the corner of each prompt box, as the chosen checkpoint's tokenizer counts.
(function (easel) {
  "use strict";

  const WAIT = 350;
  const timers = {}, told = {};
  const BOXES = { prompt: "prompt", negative_prompt: "neg_prompt" };

  function counter(box) {
    let element = box.querySelector(".token-counter");
    if (!element) {
      element = easel.el("span", { class: "token-counter", "aria-label": "Tokens used" }, "0/75");
      box.append(element);
    }
    return element;
  }

  function words(answer) {
    const clip = `${answer.used}/${answer.capacity}`;
    const t5 = answer.t5 ? ` · T5 ${answer.t5.used}/${answer.t5.capacity}` : "";
    return clip + t5;
  }

  async function count(tab, field) {
    const box = document.getElementById(`${tab}_${BOXES[field]}`);
    if (!box) return;
    const prompt = (easel.form.tabs[tab] || {})[field] || (box.querySelector("textarea") || {}).value || "";
    const checkpoint = easel.form.shared.checkpoint || "";
    const asked = `${checkpoint}\n${document.body.dataset.family}\n${prompt}`;
    const element = counter(box);
    if (told[box.id] === asked && element.dataset.told) return;
    told[box.id] = asked;
    if (!checkpoint) return;
    try {
      element.textContent = words(await easel.post("tokens", { checkpoint, prompt }));
      element.dataset.told = "yes";
    } catch {
      element.textContent = "?/75"; // the server is away or the checkpoint gone: both are told elsewhere
    }
  }

  function soon(tab) {
    clearTimeout(timers[tab]);
    timers[tab] = setTimeout(() => Object.keys(BOXES).forEach((field) => count(tab, field)), WAIT);
  }

  easel.on("form", (place) => (easel.tabs.includes(place) ? [place] : easel.tabs).forEach(soon));
  document.addEventListener("input", (event) => {
    const box = event.target.closest && event.target.closest(".prompt-box");
    if (box) soon(box.id.split("_")[0]);
  });
  easel.on("tab", () => easel.tabs.forEach(soon));
})(window.easel);

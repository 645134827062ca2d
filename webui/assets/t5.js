// Beside "Use T5": what switching it off saves, by the chosen checkpoint's own figures.
(function (easel) {
  "use strict";

  function tell() {
    const bytes = ((easel.checkpoint() || {}).parts || {}).t5;
    document.querySelectorAll(".use-t5").forEach((box) => {
      const told = box.querySelector(".t5-saves") || box.appendChild(easel.el("span", { class: "t5-saves" }));
      told.textContent = bytes ? `off saves ${easel.size(bytes)}` : "this checkpoint has none";
    });
  }

  easel.on("models", tell);
  easel.on("form", (place) => easel.tabs.includes(place) || tell());
})(window.easel);

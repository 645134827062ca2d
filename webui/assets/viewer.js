// A picture as large as the window: arrow keys go on, s saves, Esc closes.
(function (easel) {
  "use strict";

  const { el } = easel;
  let box = null, image = null, count = null, current = null, before = null;

  function build() {
    image = el("img", { alt: "" });
    count = el("span", { class: "count" });
    box = el("div", { class: "viewer", role: "dialog", "aria-modal": "true", "aria-label": "Picture", hidden: true, onclick: (event) => event.target === box && close() },
      image,
      el("div", { class: "viewer-bar" }, count,
        easel.iconButton("Previous picture", "previous", () => go(-1)),
        easel.iconButton("Next picture", "next", () => go(1)),
        easel.iconButton("Download", "download", () => easel.download(now())),
        easel.iconButton("Close", "close", close)));
    document.body.append(box);
  }

  const now = () => easel.pictures_shown().find((entry) => entry.id === current);

  function go(step) {
    const all = easel.pictures_shown();
    const at = all.findIndex((entry) => entry.id === current);
    show(all[Math.min(all.length - 1, Math.max(0, at + step))].id);
  }

  function show(id) {
    current = id;
    const all = easel.pictures_shown();
    const at = all.findIndex((entry) => entry.id === id);
    if (at < 0) return close();
    image.src = all[at].url;
    image.alt = `Picture with seed ${all[at].seed}`;
    count.textContent = `${at + 1} of ${all.length}`;
    easel.pick(id);
  }

  easel.openViewer = (id) => {
    if (!box) build();
    before = document.activeElement;
    box.hidden = false;
    easel.viewerOpen = true;
    show(id);
    box.querySelector("button.icon-close").focus();
  };

  function close() {
    box.hidden = true;
    easel.viewerOpen = false;
    if (before) before.focus();
  }

  document.addEventListener("keydown", (event) => {
    if (!easel.viewerOpen) return;
    const does = { Escape: close, ArrowLeft: () => go(-1), ArrowRight: () => go(1), s: () => easel.download(now()) }[event.key];
    if (event.key === "Tab") {
      const buttons = [...box.querySelectorAll("button")];
      const at = buttons.indexOf(document.activeElement) + (event.shiftKey ? -1 : 1);
      buttons[(at + buttons.length) % buttons.length].focus();
      event.preventDefault();
    } else if (does) {
      event.preventDefault();
      event.stopPropagation();
      does();
    }
  }, true);
})(window.easel);

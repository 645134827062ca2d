// The left end of the quick bar: name, the engine's state, light or dark. Also where our events reach the server.
(function (easel) {
  "use strict";

  const { el } = easel;

  function setTheme(dark) {
    document.body.classList.toggle("dark", dark);
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
  }
  const kept = easel.store.read("theme", null); // null: as the system wants it

  easel.parts.header = (element, options, raise) => {
    if (kept) setTheme(kept === "dark");
    else document.documentElement.style.colorScheme = document.body.classList.contains("dark") ? "dark" : "light";
    const state = el("span", { class: "engine-state", role: "status" }, "starting");
    const toggle = easel.iconButton("Light or dark", "theme", () => {
      const dark = !document.body.classList.contains("dark");
      setTheme(dark);
      easel.store.write("theme", dark ? "dark" : "light");
    });
    element.append(el("div", { class: "easel-header" },
      el("span", { class: "brand" }, "Easel"), state, toggle));
    const draw = () => {
      const { engine, away } = easel.state;
      const device = engine.device && engine.device.includes(engine.dtype) ? engine.device : `${engine.device} · ${engine.dtype}`;
      const words = away ? "reconnecting" : engine.state === "ready" ? device : engine.state === "down" ? "engine is down" : "engine starts";
      state.textContent = words;
      state.dataset.state = away ? "down" : engine.state;
      state.title = (engine.residents || []).length ? `In memory: ${engine.residents.join(", ")}` : "Nothing in memory yet";
    };
    easel.on("state", draw);
    draw();
    easel.bridge(raise);
    easel.restoreForm();
  };

  easel.whenReady(() => kept && setTheme(kept === "dark"));
})(window.easel);

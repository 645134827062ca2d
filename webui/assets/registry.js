// What the engine can do, as its registry document says: fetched anew whenever the state tells of another one.
(function (easel) {
  "use strict";

  let known = null, busy = false, offered = null;
  easel.registry = { samplers: [], schedules: [], panels: [] };

  easel.on("state", async (state) => {
    if (state.away || busy || state.registry === undefined || state.registry === known) return;
    busy = true;
    try {
      const asked = state.registry;
      easel.registry = { panels: [], ...(await easel.api("registry")) };
      known = asked;
      const names = JSON.stringify([easel.registry.samplers, easel.registry.schedules].map((rows) => rows.map((row) => row.name)));
      if (names !== offered) easel.send("rescan", {}); // the drop-down lists are gradio's
      offered = names;
      easel.emit("registry", easel.registry);
    } catch (error) {
      if (!error.away) easel.toast(error.message, "error");
    }
    busy = false;
  });

  easel.panelNamed = (name) => easel.registry.panels.find((panel) => panel.name === name);
  // A sampler with parameters of its own names their panel.
  easel.samplerOfPanel = (name) => easel.registry.samplers.find((sampler) => sampler.panel === name);
})(window.easel);

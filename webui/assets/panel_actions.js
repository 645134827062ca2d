// Buttons of panels: they run in the engine without making a job. What they give is shown beside them; what they want
// changed in the form stands there to be edited, and goes into it when one says so.
(function (easel) {
  "use strict";

  const { el } = easel;
  const HANGS = ["action_hangs", "engine_silent"]; // codes of faults that last until the engine is started anew
  let properties = null; // of the request's JSON Schema

  async function schemaOf(field) {
    properties = properties || (await easel.api("schema")).properties;
    const whole = properties[field], one = (whole.anyOf || [whole]).find((each) => each.type !== "null");
    const lines = one.type === "string" && (one.maxLength || 0) > 500 ? 5 : 1;
    return { ...whole, ...one, title: whole.title || field, lines };
  }

  // The request as Generate would send it, with this panel in it whether it is switched on or not.
  async function requestOf(panel, tab, values) {
    const shown = { ...easel.form.tabs[tab], ...easel.form.shared }, box = easel.pictures[tab];
    for (const [field, id] of [["prompt", "prompt"], ["negative_prompt", "neg_prompt"]]) {
      const area = document.querySelector(`#${tab}_${id} textarea`);
      if (area) shown[field] = area.value; // what is being typed has not been told yet
    }
    delete shown.extensions;
    if (box && (box.stored || box.arriving)) Object.assign(shown, await box.handOver());
    const { fields } = await easel.post("form", { values: shown });
    return { ...fields, extensions: { ...easel.extensionValues(tab, fields.sampler), [panel.name]: { version: panel.version, values } } };
  }

  // What an action wants in the form: a control for each field, as the panels have them.
  async function proposal(fields, use, discard) {
    const wanted = { ...fields };
    const rows = [];
    for (const [field, value] of Object.entries(fields)) {
      const row = easel.panelField(await schemaOf(field), value, (edited) => void (wanted[field] = edited));
      rows.push(row.element);
    }
    const button = (label, onclick) => el("button", { type: "button", class: "plain", onclick }, label);
    return [...rows, el("div", { class: "panel-actions" }, button("Use this", () => use(wanted)), button("Discard", discard))];
  }

  function picture(found, label) {
    const words = `Result of ${label}, ${found.width} × ${found.height}`;
    return el("a", { class: "action-picture", href: found.url, target: "_blank", rel: "noopener", title: words }, el("img", { src: found.url, alt: words }));
  }

  // A thread that hangs ends with its process alone; jobs go on before and after.
  function restartEngine(show) {
    const button = el("button", { type: "button", class: "plain", onclick: async () => {
      button.disabled = true;
      try {
        show(el("p", { class: "panel-help" }, (await easel.post("restart", { what: "engine" })).told));
      } catch (error) {
        button.disabled = false;
        easel.toast(error.message, "error");
      }
    } }, "Restart the engine");
    return el("div", { class: "panel-actions" }, button);
  }

  // values(): the panel's fields now; setValues(values): set some of them, and switch the panel on if use is true.
  easel.panelActions = (panel, tab, { values, setValues }) => {
    if (!(panel.actions || []).length) return [];
    const result = el("div", { class: "action-result", role: "status", "aria-live": "polite", hidden: true });
    const show = (...children) => {
      result.replaceChildren(...children.filter(Boolean));
      result.hidden = !result.childElementCount;
    };

    async function told(action, answer) {
      const { text, notes, fields } = answer, wantsForm = Object.keys(fields).length > 0;
      const use = (wanted) => {
        easel.send("apply", { tab, values: wanted });
        setValues(answer.values, true);
        show();
      };
      if (!wantsForm) setValues(answer.values, false);
      show(
        text ? el("p", { class: "action-text" }, text) : null,
        ...notes.map((note) => el("p", { class: "panel-help" }, note)),
        answer.picture ? picture(answer.picture, action.label) : null,
        ...(wantsForm ? await proposal(fields, use, () => show()) : []));
      if (!result.childElementCount) show(el("p", { class: "panel-help" }, `${action.label}: done.`));
    }

    const buttons = panel.actions.map((action) => {
      const button = el("button", { type: "button", class: "plain", title: action.help, onclick: press }, action.label);
      async function press() {
        buttons.forEach((each) => void (each.disabled = true));
        button.setAttribute("aria-busy", "true");
        try {
          const request = await requestOf(panel, tab, values());
          await told(action, await easel.post(`extensions/${panel.name}/actions/${action.name}`, request));
        } catch (error) {
          show(el("p", { class: "action-fault" }, error.message), HANGS.includes(error.code) ? restartEngine(show) : null);
        }
        button.removeAttribute("aria-busy");
        buttons.forEach((each) => void (each.disabled = false));
      }
      return button;
    });
    return [el("div", { class: "panel-actions" }, ...buttons), result];
  };
})(window.easel);

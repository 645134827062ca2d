// Extensions' panels: drawn from the registry document in every tab, remembered here, sent with Generate.
(function (easel) {
  "use strict";

  const { el } = easel;
  const kept = easel.store.read("panels", {}); // tab -> panel -> {on, values}
  const isOpen = easel.store.read("panels_open", {});
  const drawn = []; // a draw() for each place in the page
  let ready = false;

  // -- what is set

  const fieldsOf = (panel) => Object.entries(panel.schema.properties || {});
  function settings(tab, panel) {
    if (panel.isGroup) return easel.groupSettings(tab, panel);
    const tabs = (kept[tab] = kept[tab] || {});
    const own = (tabs[panel.name] = tabs[panel.name] || { on: false, values: {} });
    own.values = own.values || {};
    return own;
  }
  const valueOf = (own, field, schema) => (easel.fits(schema, own.values[field]) ? own.values[field] : schema.default);
  const keep = (own) => (own && own.tell ? own.tell() : easel.store.write("panels", kept));

  // The sampler as the form has it; before it has told anything, as its list shows it.
  function samplerOf(tab) {
    const shown = (document.querySelector(`#${tab}_sampling input`) || {}).value;
    const wanted = (easel.form.tabs[tab] || {}).sampler || shown;
    return easel.registry.samplers.find((row) => row.name === wanted || row.label === wanted);
  }
  const suits = (panel, tab) => panel.tabs.includes(tab) && (!panel.families.length || panel.families.includes(easel.family()));
  const offered = (tab) => easel.registry.panels.filter((panel) => suits(panel, tab) && !easel.samplerOfPanel(panel.name));
  // A panel that is always there acts with its defaults by itself: it is sent when something in it is set.
  const isSet = (panel, tab) => fieldsOf(panel).some(([field, schema]) => valueOf(settings(tab, panel), field, schema) !== schema.default);
  const isUsed = (panel, tab) => (panel.always ? isSet(panel, tab) : settings(tab, panel).on);

  // The request's field, for the tab's Generate; sampler: the name that is sent with it.
  easel.extensionValues = (tab, sampler) => {
    if (!ready) throw new Error("Easel has not told yet which extensions there are. Press Generate again in a moment.");
    const row = easel.registry.samplers.find((entry) => entry.name === sampler);
    const own = row && row.panel ? easel.panelNamed(row.panel) : null;
    const used = [...offered(tab).filter((panel) => isUsed(panel, tab)), ...(own && suits(own, tab) ? [own] : [])];
    return Object.fromEntries(used.map((panel) => {
      const { older } = settings(tab, panel);
      if (older && older.version < panel.version) return [panel.name, older]; // the engine knows what they mean now
      const values = fieldsOf(panel).map(([field, schema]) => [field, valueOf(settings(tab, panel), field, schema)]);
      return [panel.name, { version: panel.version, values: Object.fromEntries(values) }];
    }));
  };

  // Parameters came into a tab: the panels that they name are on with their values, all others off.
  const waiting = {};
  easel.panelsTold = (texts) => {
    easel.tabs.forEach((tab, i) => {
      if (texts[i]) waiting[tab] = JSON.parse(texts[i]);
    });
    takeIn();
  };
  function takeIn() {
    if (!ready) return; // before the first registry nobody knows the panels
    for (const [tab, told] of Object.entries(waiting)) {
      for (const panel of easel.registry.panels) {
        const own = settings(tab, panel);
        own.on = panel.name in told;
        delete own.older;
        if (!own.on && panel.always) own.values = {};
        if (!own.on) continue;
        own.values = { ...(told[panel.name].values || {}) };
        if (told[panel.name].version < panel.version) own.older = told[panel.name];
        isOpen[`${tab}.${panel.name}`] = true;
      }
      delete waiting[tab];
    }
    keep();
    drawn.forEach((draw) => draw(true));
  }

  // -- what is drawn

  function body(panel, tab, { turnOn = () => {}, changed = () => {} } = {}) {
    const own = settings(tab, panel);
    const properties = panel.schema.properties || {};
    const take = (field, value) => {
      delete own.older; // from now on it is as it is shown
      own.values[field] = value;
      for (const [other, { options_of: named }] of fieldsOf(panel)) if (named === field) own.values[other] = {};
      rows.forEach(([, schema, row]) => schema.options_of === field && row.show());
      told();
    };
    const told = () => {
      keep(own);
      changed();
    };
    const row = (field, schema) => {
      const named = schema.options_of, value = (name) => valueOf(own, name, properties[name]);
      if (!named) return easel.panelField(schema, value(field), (taken) => take(field, taken));
      return easel.panelOptions(properties[named], () => value(named), () => value(field), (taken) => take(field, taken));
    };
    const rows = fieldsOf(panel).map(([field, schema]) => [field, schema, row(field, schema)]);
    const show = () => rows.forEach(([field, schema, row]) => row.show(valueOf(own, field, schema)));
    const reset = () => {
      const wasOn = own.on;
      own.values = {};
      delete own.older;
      Object.assign(own, { usual: panel.on, on: wasOn }); // a group of fields is on by a value of its own
      show();
      told();
    };
    const buttons = rows.length ? [easel.iconButton(`Reset ${panel.label}`, "undo", reset)] : [];
    if (rows.some(([, schema]) => schema.description && schema.shown !== false)) buttons.unshift(explainer(panel));
    const preset = ({ label, values }) => el("button", { type: "button", class: "plain", onclick: () => {
      Object.assign(own.values, values);
      show();
      told();
    } }, label);
    const actions = panel.presets ? [el("div", { class: "panel-actions" }, ...panel.presets.map(preset))] : easel.panelActions(panel, tab, {
      values: () => Object.fromEntries(rows.map(([field, schema]) => [field, valueOf(own, field, schema)])),
      setValues: (values, use) => {
        Object.assign(own.values, values);
        delete own.older;
        rows.forEach(([field, schema, row]) => (field in values || schema.options_of in values) && row.show(valueOf(own, field, schema)));
        if (use) turnOn();
        told();
      },
    });
    const seen = rows.filter(([, schema]) => schema.shown !== false);
    const folded = seen.filter(([field]) => (panel.folded || []).includes(field));
    const isSet = folded.some(([field, schema]) => JSON.stringify(valueOf(own, field, schema)) !== JSON.stringify(schema.default));
    const more = folded.length ? el("details", { class: "panel-more", open: isSet }, el("summary", {}, "More"), ...folded.map(([, , row]) => row.element)) : null;
    const plain = seen.filter((row) => !folded.includes(row)).map(([, , row]) => row.element);
    return { rows: [...plain, ...(more ? [more] : []), ...actions], buttons, show };
  }

  // The request's help on each field: the pointer shows one of them, this all.
  function explainer(panel) {
    const button = el("button", { type: "button", class: "explain", "aria-pressed": "false", "aria-label": `Explain ${panel.label}`, onclick: () => {
      const on = button.closest(".panel-body, .sampler-panel").classList.toggle("explained");
      button.setAttribute("aria-pressed", String(on));
    } }, "Explain");
    return button;
  }

  function accordion(panel, tab, changed) {
    const own = settings(tab, panel), id = `${tab}_panel_${panel.name}`, key = `${tab}.${panel.name}`;
    const turnOn = () => void (own.on = true);
    const { rows, buttons, show: showValues } = body(panel, tab, { turnOn, changed: () => show() });
    const inside = el("div", { class: "panel-body", id: `${id}_body` }, panel.help ? el("p", { class: "panel-help" }, panel.help) : null, ...rows, el("div", { class: "panel-foot" }, panel.isGroup ? el("span", {}, "part of Easel") : el("span", { class: "panel-owner" }, panel.label.startsWith(titleOf(panel.owner)) ? "" : `part of ${titleOf(panel.owner)}`), ...buttons));
    const head = el("button", { type: "button", class: "panel-title", "aria-controls": inside.id, onclick: () => open(inside.hidden) }, panel.label);
    const toggle = el("input", { type: "checkbox", role: "switch", "aria-label": `Use ${panel.label}`, onchange: () => {
      own.on = toggle.checked;
      if (own.on) open(true);
      if (panel.isGroup) showValues();
      keep(own);
      show();
    } });
    const element = el("section", { class: "panel", id }, el("div", { class: "panel-head" }, head, panel.always ? el("span", { class: "panel-always" }, "always on") : toggle), inside);
    function show() {
      toggle.checked = own.on;
      element.classList.toggle("on", isUsed(panel, tab));
      changed();
    }
    if (panel.isGroup) own.heard = () => [showValues, show].forEach((each) => each());
    function open(wanted) {
      inside.hidden = !wanted;
      head.setAttribute("aria-expanded", String(wanted));
      isOpen[key] = wanted;
      easel.store.write("panels_open", isOpen);
    }
    inside.hidden = !isOpen[key];
    head.setAttribute("aria-expanded", String(!inside.hidden));
    toggle.checked = own.on;
    element.classList.toggle("on", isUsed(panel, tab));
    return element;
  }

  // build() anew only when what it would draw has changed: a control keeps the focus.
  function place(element, wanted, build) {
    let shown = null;
    const draw = (force) => {
      const panels = wanted(), told = JSON.stringify(panels);
      if (told === shown && force !== true) return;
      shown = told;
      element.hidden = !panels.length;
      element.replaceChildren(...(panels.length ? build(panels) : []));
    };
    drawn.push(draw);
    draw();
  }

  // Many panels of one extension lie in a fold of their own; it is open while one of them is on.
  const MANY = 3;
  function folded(panels, sections, tab) {
    const ofOwner = (owner) => panels.filter((panel) => panel.owner === owner && !panel.follows);
    const done = new Set();
    return panels.flatMap((panel, i) => {
      if (ofOwner(panel.owner).length < MANY) return [sections[i]];
      if (done.has(panel.owner)) return [];
      done.add(panel.owner);
      return [group(panel.owner, panels.map((other, k) => [other, sections[k]]).filter(([other]) => other.owner === panel.owner), tab)];
    });
  }
  const titleOf = (owner) => ((easel.registry.extensions || []).find((entry) => entry.name === owner) || {}).title || owner;
  function group(owner, members, tab) {
    const id = `${tab}_group_${owner}`, key = `${tab}.group.${owner}`;
    const inside = el("div", { class: "panel-group-body", id: `${id}_body` }, ...members.map(([, section]) => section));
    const head = el("button", { type: "button", class: "panel-title", "aria-controls": inside.id, onclick: () => open(inside.hidden) }, titleOf(owner));
    const count = el("span", { class: "panels-count" });
    const element = el("section", { class: "panel panel-group", id }, el("div", { class: "panel-head" }, head, count), inside);
    const on = () => members.filter(([panel]) => isUsed(panel, tab)).length;
    element.tell = () => {
      count.textContent = on() ? `${on()} on` : "";
      element.classList.toggle("on", on() > 0);
    };
    function open(wanted) {
      inside.hidden = !wanted;
      head.setAttribute("aria-expanded", String(wanted));
      isOpen[key] = wanted;
      easel.store.write("panels_open", isOpen);
    }
    inside.hidden = !isOpen[key] && !on();
    head.setAttribute("aria-expanded", String(!inside.hidden));
    element.tell();
    return element;
  }

  easel.parts.panels = (element, { tab }) => {
    const box = element.appendChild(el("div", { class: "panels" }));
    place(box, () => easel.withGroups(offered(tab)), (panels) => {
      const count = el("span", { class: "panels-count", role: "status" });
      // one that follows another is offered once that is used
      const isWaiting = ({ follows, ...panel }) => Boolean(follows) && !isUsed(panel, tab) && panels.some((other) => other.name === follows && !isUsed(other, tab));
      const changed = () => {
        const on = panels.filter((panel) => isUsed(panel, tab)).length;
        count.textContent = on ? `${on} on` : "";
        panels.forEach((panel, i) => (sections[i].hidden = isWaiting(panel)));
        shown.forEach((each) => each.tell && each.tell());
      };
      let shown = [];
      const sections = panels.map((panel) => accordion(panel, tab, changed));
      shown = folded(panels, sections, tab);
      changed();
      return [el("div", { class: "panels-head" }, el("span", {}, "Extensions"), count), ...shown];
    });
  };

  // Groups of fields that no extension has taken in among its panels stand above them.
  easel.parts.field_groups = (element, { tab, event }, raise) => {
    easel.groupsTell(tab, () => raise(event));
    const box = element.appendChild(el("div", { class: "panels" }));
    place(box, () => (ready ? easel.groupsAlone(offered(tab)) : []), (groups) => groups.map((group) => accordion(group, tab, () => {})));
  };

  easel.parts.sampler_panel = (element, { tab }) => {
    const box = element.appendChild(el("div", { class: "sampler-panel" }));
    const wanted = () => [easel.panelNamed((samplerOf(tab) || {}).panel)].filter((panel) => panel && suits(panel, tab));
    place(box, wanted, ([panel]) => {
      const { rows, buttons } = body(panel, tab);
      return [...rows, buttons.length ? el("div", { class: "panel-foot" }, el("span", {}, panel.label), ...buttons) : null].filter(Boolean);
    });
  };

  const redraw = () => drawn.forEach((draw) => draw());
  easel.on("form", redraw);
  easel.on("models", redraw);
  easel.on("registry", () => {
    ready = true;
    redraw();
    takeIn();
  });
})(window.easel);

// Groups of the request's own fields, drawn among the panels (webui/parts/field_groups.py): their values are the form's,
// which gradio keeps.
(function (easel) {
  "use strict";

  const raise = {}; // tab -> tells gradio that a group has changed
  const held = {}; // tab.group -> its settings

  const adopter = (group, panels) => panels.find((panel) => (panel.adopts || []).includes(group.name));
  const here = () => easel.groups.filter((group) => group.families.includes(easel.family()));
  const drawn = (group, owner) => ({ always: false, follows: "", folded: [], ...group, owner, isGroup: true });

  // The panels, each with the groups that it has taken in below it; and the groups that no panel has.
  easel.withGroups = (panels) =>
    panels.flatMap((panel) => [panel, ...here().filter((group) => adopter(group, panels) === panel).map((group) => drawn(group, panel.owner))]);
  easel.groupsAlone = (panels) => here().filter((group) => !adopter(group, panels)).map((group) => drawn(group, ""));

  // on and values as a panel has them; tell() hands them to gradio, heard() is called when something else has set them.
  function settings(tab, group) {
    const key = `${tab}.${group.name}`, fields = Object.entries(group.schema.properties);
    if (held[key]) return held[key];
    const value = ([field, schema]) => own.values[field] ?? schema.default;
    const ofForm = ([field]) => (easel.form.tabs[tab] || {})[field];
    const differs = (row) => ofForm(row) !== undefined && ofForm(row) !== value(row);
    const off = group.schema.properties[group.switch].default;
    const own = held[key] = {
      values: {},
      usual: group.on,
      asked: true, // gradio has asked for what is set,
      taken: true, // and told what it holds since
      heard() {},
      get on() {
        return (this.values[group.switch] ?? off) !== off;
      },
      set on(wanted) {
        if (wanted === this.on) return;
        if (!wanted) this.usual = this.values[group.switch];
        this.values[group.switch] = wanted ? this.usual : off;
      },
      told: () => fields.map((row) => [row[0], value(row)]),
      tell() {
        if (!fields.some(differs)) return;
        own.asked = own.taken = false;
        raise[tab]();
      },
      hear() {
        if (!own.asked) return;
        own.taken = true;
        if (!fields.some(differs)) return;
        fields.filter(differs).forEach((row) => (own.values[row[0]] = ofForm(row)));
        own.heard();
      },
    };
    own.hear();
    return own;
  }
  easel.groupSettings = settings;

  // gradio asks for what it was told of.
  easel.groupTold = (tab, name) => {
    const own = settings(tab, easel.groups.find((group) => group.name === name));
    own.asked = true;
    return own.told().map(([, value]) => value);
  };
  // What gradio has not taken yet: Generate may be pressed at once.
  easel.groupsUntold = (tab) =>
    Object.fromEntries(easel.groups.map((group) => settings(tab, group)).filter((own) => !own.taken).flatMap((own) => own.told()));

  easel.groupsTell = (tab, tell) => void (raise[tab] = tell);
  easel.on("form", (tab) => easel.tabs.includes(tab) && easel.groups.forEach((group) => settings(tab, group).hear()));
})(window.easel);

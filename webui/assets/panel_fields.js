// The controls of a panel's parameters, made from their JSON Schema: one row a field.
(function (easel) {
  "use strict";

  const { el } = easel;
  let count = 0;

  const isNumber = (schema) => schema.type === "number" || schema.type === "integer";
  const namesOf = (schema) => schema.enum || (schema.const === undefined ? null : [schema.const]);
  const rowsOf = (schema) => easel.registry[schema.registry] || [];

  // Whether a remembered value is one that the field takes as the extension is now.
  easel.fits = (schema, value) => {
    const names = namesOf(schema);
    if (names) return names.includes(value);
    if (schema.registry) return rowsOf(schema).some((row) => row.name === value);
    if (schema.type === "boolean") return typeof value === "boolean";
    if (schema.type === "string") return typeof value === "string" && value.length <= (schema.maxLength ?? Infinity);
    if (!isNumber(schema)) return value !== undefined;
    const whole = schema.type !== "integer" || Number.isInteger(value);
    return Number.isFinite(value) && whole && value >= (schema.minimum ?? -Infinity) && value <= (schema.maximum ?? Infinity);
  };

  // Each builder: (schema, id, value, change) -> {nodes, show(value)}
  function slider(schema, id, value, change) {
    const bounds = { min: schema.minimum, max: schema.maximum, step: schema.step || (schema.type === "integer" ? 1 : 0.01) };
    const bounded = schema.minimum !== undefined && schema.maximum !== undefined;
    const range = bounded ? el("input", { type: "range", ...bounds, "aria-label": schema.title, oninput: () => take(range.valueAsNumber) }) : null;
    // the box takes what lies between the slider's steps, too
    const box = el("input", { type: "number", id, ...bounds, step: "any", onchange: () => take(box.valueAsNumber) });
    function take(number) {
      const most = Math.min(schema.maximum ?? Infinity, Math.max(schema.minimum ?? -Infinity, Number.isFinite(number) ? number : schema.default));
      const taken = schema.type === "integer" ? Math.round(most) : most;
      show(taken);
      change(taken);
    }
    function show(number) {
      box.value = number;
      if (range) range.value = number;
      if (range) range.style.setProperty("--share", `${(100 * (number - bounds.min)) / (bounds.max - bounds.min || 1)}%`);
    }
    show(value);
    return { nodes: [box, range], show, kind: "number" };
  }
  function check(schema, id, value, change) {
    const box = el("input", { type: "checkbox", id, onchange: () => change(box.checked) });
    const show = (wanted) => void (box.checked = wanted);
    show(value);
    return { nodes: [box], show, kind: "flag" };
  }
  function choice(schema, id, value, change) {
    const rows = schema.registry ? rowsOf(schema) : namesOf(schema).map((name) => ({ name, label: String(name) }));
    const names = rows.map((row) => row.name);
    const box = el("select", { id, onchange: () => change(names[box.selectedIndex]) }, ...rows.map((row) => el("option", {}, row.label)));
    const show = (wanted) => void (box.selectedIndex = names.indexOf(wanted));
    show(value);
    return { nodes: [box], show, kind: "choice" };
  }
  function text(schema, id, value, change) {
    const lines = schema.lines || 1;
    const box = el(lines > 1 ? "textarea" : "input", { id, rows: lines > 1 ? lines : null, type: lines > 1 ? null : "text", maxlength: schema.maxLength, spellcheck: "false", oninput: () => change(box.value) });
    const show = (wanted) => void (box.value = wanted);
    show(value);
    return { nodes: [box], show, kind: "text" };
  }
  // A parameter of the job by name and the values that it takes: "steps: 10, 20"; a tag stands between < and >.
  function axis(schema, id, value, change) {
    const names = el("datalist", { id: `${id}_names` });
    const offer = () => names.replaceChildren(...(easel.registry.axes || []).map((row) => el("option", { value: row.name, label: row.label })));
    const name = el("input", { type: "text", id, list: names.id, spellcheck: "false", placeholder: "parameter", onfocus: offer, oninput: tell });
    const values = el("textarea", { rows: 1, spellcheck: "false", placeholder: "values", "aria-label": `Values of ${schema.title}`, oninput: tell });
    function tell() {
      const [first, rest] = [name.value.trim(), values.value.trim()];
      change(first || rest ? `${first}: ${rest}` : "");
    }
    function show(wanted) {
      const parts = wanted.match(/^\s*(<[^>]*>|[^:]*):?\s*([^]*)$/);
      [name.value, values.value] = [parts[1].trim(), parts[2]];
    }
    show(value);
    return { nodes: [name, values, names], show, kind: "axis" };
  }
  // A type that has no control of its own is written as JSON; what is none is sent as text, and refused by its name.
  function json(schema, id, value, change) {
    const read = (words) => {
      try {
        return JSON.parse(words);
      } catch {
        return words;
      }
    };
    const made = text({ lines: 2 }, id, JSON.stringify(value), (words) => change(read(words)));
    return { ...made, show: (wanted) => made.show(JSON.stringify(wanted)) };
  }

  // A row for one field; change(value) is told of every change, show(value) sets it from outside.
  easel.panelField = (schema, value, change) => {
    const id = `panel_field_${(count += 1)}`;
    const build = schema.picture ? easel.pictureField : schema.folder ? easel.fileField : namesOf(schema) || schema.registry ? choice : schema.type === "boolean" ? check : schema.kind === "axis" ? axis : schema.type === "string" ? text : isNumber(schema) ? slider : json;
    const { nodes, show, kind } = build(schema, id, value, change);
    const label = el("label", { for: id }, schema.title || ""), help = schema.description;
    const words = help ? el("p", { class: "field-help", id: `${id}_help` }, help) : null; // shown when the panel is explained
    if (help) nodes.forEach((node) => node && node.setAttribute("aria-describedby", words.id));
    return { element: el("div", { class: `panel-field ${kind}`, title: help }, label, ...nodes, words), show };
  };

  // The fields of what another field names (schema: that field's, name(): what it names); show() draws them anew.
  easel.panelOptions = (schema, name, values, change) => {
    const element = el("div", { class: "panel-options" });
    function show() {
      const row = rowsOf(schema).find((entry) => entry.name === name());
      const fields = Object.entries((row && row.schema.properties) || {});
      const rows = fields.map(([field, own]) => {
        const value = easel.fits(own, values()[field]) ? values()[field] : own.default;
        return easel.panelField(own, value, (taken) => change({ ...values(), [field]: taken, version: row.version })).element;
      });
      element.replaceChildren(...(row && row.help ? [el("p", { class: "panel-help" }, row.help)] : []), ...rows);
    }
    show();
    return { element, show };
  };
})(window.easel);

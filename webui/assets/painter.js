// The mask painter of inpaint: a picture box with a brush. The overlay canvas only shows what mask.js holds.
(function (easel) {
  "use strict";

  const { el } = easel;
  const TINT = [226, 62, 87], OPACITY = 0.6;
  const NEAREST = 0.05, FARTHEST = 32;

  const Painter = (easel.Painter = class extends easel.PictureBox {
    constructor(element, tab) {
      super(element, tab);
      this.mask = null;
      this.sent = null; // {revision, sha256} of the mask that the server has
      this.tool = "brush";
      this.pointers = new Map();
      this.view = { scale: 1, x: 0, y: 0 };
      this.canvas = el("canvas", { class: "overlay" });
      this.cursor = el("div", { class: "brush-cursor", hidden: true });
      this.layer = el("div", { class: "layer" }, this.image, this.canvas);
      this.frame.classList.add("paintable");
      this.frame.tabIndex = 0;
      this.frame.setAttribute("role", "application");
      this.frame.setAttribute("aria-label", "Mask painter: paint over what should be made anew");
      this.frame.replaceChildren(this.layer, this.cursor);
      this.holder.prepend(this.#toolbar());
      this.#listen();
      new ResizeObserver(() => this.mask && this.fit()).observe(this.holder);
    }

    #toolbar() {
      const kept = easel.store.read("brush", {});
      const slide = (name, label, low, high, value) => {
        const input = el("input", { type: "range", min: low, max: high, step: 1, value: kept[name] || value, "aria-label": label, oninput: () => {
          easel.store.write("brush", { radius: this.radius.value, softness: this.softness.value, pressure: this.pressure.checked });
          this.#drawCursor();
        } });
        return input;
      };
      this.radius = slide("radius", "Brush size", 1, 200, 24);
      this.softness = slide("softness", "Soft edge", 0, 100, 0);
      this.pressure = el("input", { type: "checkbox", checked: Boolean(kept.pressure), onchange: () => this.radius.dispatchEvent(new Event("input")) });
      const button = (name, icon, action) => easel.iconButton(name, icon, action);
      this.brushButton = button("Brush", "brush", () => this.use("brush"));
      this.eraserButton = button("Eraser", "eraser", () => this.use("eraser"));
      this.undoButton = button("Undo", "undo", () => this.#redraw(this.mask.undo()));
      this.redoButton = button("Redo", "redo", () => this.#redraw(this.mask.redo()));
      this.zoomText = el("span", { class: "zoom" });
      const bar = el("div", { class: "paint-bar", role: "toolbar", "aria-label": "Mask tools" },
        el("span", { class: "tool-group" }, this.brushButton, this.eraserButton),
        el("label", { class: "slide" }, "Size", this.radius),
        el("label", { class: "slide" }, "Soft edge", this.softness),
        el("span", { class: "tool-group" }, this.undoButton, this.redoButton,
          button("Clear the mask", "clear", () => this.#redraw(this.mask.map(() => 0))),
          button("Invert the mask", "invert", () => this.#redraw(this.mask.map((value) => 255 - value)))),
        el("span", { class: "tool-group" },
          button("Zoom out", "zoom-out", () => this.zoom(1 / 1.4)), button("Zoom in", "zoom-in", () => this.zoom(1.4)),
          button("Fit the picture", "fit", () => this.fit()), this.zoomText),
        (this.pressureLabel = el("label", { class: "pressure", hidden: true }, this.pressure, "Pen pressure")));
      this.use("brush");
      return bar;
    }

    use(tool) {
      this.tool = tool;
      this.brushButton.setAttribute("aria-pressed", String(tool === "brush"));
      this.eraserButton.setAttribute("aria-pressed", String(tool === "eraser"));
    }

    // A new picture always starts with an empty mask: one that was painted for another picture is gone.
    async show(stored) {
      this.mask = new easel.Mask(stored.width, stored.height);
      this.sent = null;
      this.canvas.width = stored.width;
      this.canvas.height = stored.height;
      await super.show(stored);
      if (this.stored !== stored) return;
      this.#redraw({ x: 0, y: 0, w: stored.width, h: stored.height });
      this.fit();
    }

    clear() {
      super.clear();
      this.mask = null;
      this.sent = null;
    }

    // The mask that the server has of an earlier page.
    async showMask(sha256) {
      const image = new Image();
      image.src = `/api/v1/inputs/${sha256}`;
      await image.decode();
      this.mask.fill(image);
      this.sent = { revision: this.mask.revision, sha256 };
      this.#redraw({ x: 0, y: 0, w: this.mask.width, h: this.mask.height });
    }

    async handOver() {
      const picture = await super.handOver();
      if (!picture.init_image || !this.mask || this.mask.isEmpty) return { ...picture, mask: "" };
      const { mask } = this, { revision } = mask;
      if (!this.sent || this.sent.revision !== revision) {
        const stored = await easel.storeInput(await mask.png());
        if (this.mask === mask) this.sent = { revision, sha256: stored.sha256 };
        return { ...picture, mask: stored.sha256 };
      }
      return { ...picture, mask: this.sent.sha256 };
    }

    // -- view

    fit() {
      const { width, height } = this.mask;
      const wide = this.holder.clientWidth;
      if (!wide) return;
      const tall = Math.max(180, Math.min(window.innerHeight * 0.62, (wide * height) / width));
      this.frame.style.height = `${Math.round(tall)}px`;
      const scale = Math.min(wide / width, tall / height);
      this.view = { scale, x: (wide - width * scale) / 2, y: (tall - height * scale) / 2 };
      this.#place();
    }

    zoom(factor, at) {
      const { width, height } = this.frame.getBoundingClientRect();
      const point = at || { x: width / 2, y: height / 2 };
      const scale = Math.min(FARTHEST, Math.max(NEAREST, this.view.scale * factor));
      const ratio = scale / this.view.scale;
      this.view = { scale, x: point.x - (point.x - this.view.x) * ratio, y: point.y - (point.y - this.view.y) * ratio };
      this.#place();
    }

    #place() {
      const { scale, x, y } = this.view;
      this.layer.style.width = `${this.mask.width}px`;
      this.layer.style.height = `${this.mask.height}px`;
      this.layer.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
      this.layer.classList.toggle("pixels", scale >= 4);
      this.zoomText.textContent = `${Math.round(scale * 100)} %`;
      this.#drawCursor();
    }

    #point(event) {
      const box = this.frame.getBoundingClientRect();
      return { x: event.clientX - box.left - this.frame.clientLeft, y: event.clientY - box.top - this.frame.clientTop };
    }

    #drawCursor(event) {
      if (event) this.hover = this.#point(event);
      this.cursor.hidden = !this.hover || !this.mask;
      if (this.cursor.hidden) return;
      const r = Number(this.radius.value) * this.view.scale;
      Object.assign(this.cursor.style, { width: `${2 * r}px`, height: `${2 * r}px`, left: `${this.hover.x - r}px`, top: `${this.hover.y - r}px` });
    }

    #redraw(rect) {
      this.undoButton.disabled = !this.mask || !this.mask.past.length;
      this.redoButton.disabled = !this.mask || !this.mask.future.length;
      if (!rect) return;
      const { x, y, w, h } = rect, { width, data } = this.mask;
      const pixels = new ImageData(w, h);
      for (let row = 0, to = 0; row < h; row += 1) {
        for (let from = (y + row) * width + x, end = from + w; from < end; from += 1, to += 4) {
          pixels.data[to] = TINT[0];
          pixels.data[to + 1] = TINT[1];
          pixels.data[to + 2] = TINT[2];
          pixels.data[to + 3] = data[from] * OPACITY;
        }
      }
      this.canvas.getContext("2d").putImageData(pixels, x, y);
    }

    // -- hands

    #radiusOf(event) {
      const full = Number(this.radius.value);
      return this.pressure.checked && event.pointerType === "pen" ? Math.max(0.5, full * 2 * event.pressure) : full;
    }

    #paintTo(event) {
      const point = this.#point(event), { scale, x, y } = this.view;
      const next = { x: (point.x - x) / scale, y: (point.y - y) / scale, r: this.#radiusOf(event) };
      const last = this.last || next;
      this.last = next;
      this.#redraw(this.mask.segment(last.x, last.y, last.r, next.x, next.y, next.r, Number(this.softness.value) / 100, this.tool === "eraser" || (event.buttons & 32) > 0));
    }

    #listen() {
      const frame = this.frame;
      frame.addEventListener("pointerdown", (event) => this.#down(event));
      frame.addEventListener("pointermove", (event) => this.#move(event));
      for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, (event) => this.#up(event));
      frame.addEventListener("pointerleave", () => {
        this.hover = null;
        this.#drawCursor();
      });
      frame.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.shiftKey && !event.metaKey) return; // a plain wheel scrolls the page
        event.preventDefault();
        this.zoom(Math.exp(-(event.deltaY || event.deltaX) / 400), this.#point(event));
      }, { passive: false });
      frame.addEventListener("keydown", (event) => this.#key(event));
      frame.addEventListener("keyup", (event) => event.key === " " && (this.spaceDown = false));
      frame.addEventListener("contextmenu", (event) => event.preventDefault());
    }

    #down(event) {
      if (!this.mask) return;
      event.preventDefault();
      this.frame.focus({ preventScroll: true });
      this.frame.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, this.#point(event));
      if (this.pointers.size > 1) {
        this.#redraw(this.mask.drop()); // a second finger: this was a pinch from the start
        this.last = null;
      } else if (event.button === 0 && !this.spaceDown) {
        this.mask.begin();
        this.last = null;
        this.#paintTo(event);
      }
    }

    #move(event) {
      this.#drawCursor(event);
      if (event.pointerType === "pen") this.pressureLabel.hidden = false;
      const before = this.pointers.get(event.pointerId);
      if (!before || !this.mask) return;
      const now = this.#point(event);
      if (this.mask.stroke) {
        const all = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
        (all.length ? all : [event]).forEach((part) => this.#paintTo(part));
      } else if (this.pointers.size === 2) {
        const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
        const distance = (a, b) => Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
        this.view.x += (now.x - before.x) / 2;
        this.view.y += (now.y - before.y) / 2;
        this.zoom(distance(now, other) / distance(before, other), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
      } else if (this.pointers.size === 1) {
        this.view.x += now.x - before.x;
        this.view.y += now.y - before.y;
        this.#place();
      }
      this.pointers.set(event.pointerId, now);
    }

    #up(event) {
      this.pointers.delete(event.pointerId);
      this.last = null;
      if (this.mask && this.mask.stroke) {
        this.mask.end();
        this.#redraw(null);
      }
    }

    #key(event) {
      if (!this.mask) return;
      const key = event.key.toLowerCase(), command = event.ctrlKey || event.metaKey;
      const size = (factor) => {
        this.radius.value = Math.round(Number(this.radius.value) * factor + Math.sign(factor - 1));
        this.radius.dispatchEvent(new Event("input"));
      };
      if (command && key === "z") this.#redraw(event.shiftKey ? this.mask.redo() : this.mask.undo());
      else if (command && key === "y") this.#redraw(this.mask.redo());
      else if (command || event.altKey) return;
      else if (key === "[") size(1 / 1.15);
      else if (key === "]") size(1.15);
      else if (key === "b") this.use("brush");
      else if (key === "e") this.use("eraser");
      else if (key === " ") this.spaceDown = true;
      else return;
      event.preventDefault();
    }
  });

  easel.parts.painter = (element, options) => new Painter(element, options.tab);
})(window.easel);

// A mask is one byte a pixel (255 = repaint), at the picture's size; strokes, exact undo, and its PNG. No canvas here.
(function (easel) {
  "use strict";

  const UNDO_BYTES = 128 * 2 ** 20;
  const smooth = (t) => t * t * (3 - 2 * t);

  easel.Mask = class {
    constructor(width, height) {
      this.width = width;
      this.height = height;
      this.data = new Uint8Array(width * height);
      this.past = [];
      this.future = [];
      this.revision = 0;
      this.stroke = null;
    }

    // As it was in a picture of it, white where it is to be repainted; there is nothing to be undone in it.
    fill(image) {
      const canvas = document.createElement("canvas");
      [canvas.width, canvas.height] = [this.width, this.height];
      const context = canvas.getContext("2d");
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, this.width, this.height).data;
      for (let i = 0; i < this.data.length; i += 1) this.data[i] = pixels[4 * i];
      this.revision += 1;
    }

    get isEmpty() {
      return !this.data.some((value) => value > 0);
    }

    begin() {
      this.stroke = { before: this.data.slice(), rect: null };
    }

    // One piece of a stroke: from (x0, y0) with radius r0 to (x1, y1) with r1, in pixels; soft 0..1 is the share of the
    // radius over which the edge fades. The larger (eraser: smaller) value wins, so that overlaps do not build up.
    segment(x0, y0, r0, x1, y1, r1, soft, erase) {
      const { width, height, data } = this;
      const reach = Math.max(r0, r1) + 1;
      const left = Math.max(0, Math.floor(Math.min(x0, x1) - reach)), right = Math.min(width, Math.ceil(Math.max(x0, x1) + reach));
      const top = Math.max(0, Math.floor(Math.min(y0, y1) - reach)), bottom = Math.min(height, Math.ceil(Math.max(y0, y1) + reach));
      if (left >= right || top >= bottom) return null;
      const dx = x1 - x0, dy = y1 - y0, length2 = dx * dx + dy * dy;
      for (let y = top; y < bottom; y += 1) {
        for (let x = left; x < right; x += 1) {
          const px = x + 0.5 - x0, py = y + 0.5 - y0;
          const t = length2 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length2)) : 0;
          const r = r0 + (r1 - r0) * t;
          const ex = px - t * dx, ey = py - t * dy;
          const depth = r - Math.sqrt(ex * ex + ey * ey); // > 0 inside; Math.hypot is many times slower
          const fade = r * soft;
          let v = fade > 1 ? Math.min(1, Math.max(0, depth / fade)) : Math.min(1, Math.max(0, depth + 0.5));
          if (v === 0) continue;
          if (fade > 1) v = smooth(v);
          const value = Math.round(v * 255), i = y * width + x;
          if (erase) data[i] = Math.min(data[i], 255 - value);
          else data[i] = Math.max(data[i], value);
        }
      }
      const rect = { x: left, y: top, w: right - left, h: bottom - top };
      if (this.stroke) this.stroke.rect = union(this.stroke.rect, rect);
      return rect;
    }

    end() {
      const { before, rect } = this.stroke;
      this.stroke = null;
      if (rect) this.#record(rect, crop(before, this.width, rect));
    }

    // A stroke that turned out to be a pinch leaves nothing behind.
    drop() {
      if (!this.stroke) return null;
      const { before, rect } = this.stroke;
      this.stroke = null;
      this.data = before;
      return rect;
    }

    // Clear, invert: value -> value for every pixel, as one step of the undo list.
    map(change) {
      const rect = { x: 0, y: 0, w: this.width, h: this.height };
      const before = this.data.slice();
      for (let i = 0; i < this.data.length; i += 1) this.data[i] = change(this.data[i]);
      this.#record(rect, before);
      return rect;
    }

    undo() {
      return this.#swap(this.past, this.future);
    }
    redo() {
      return this.#swap(this.future, this.past);
    }

    #record(rect, before) {
      this.past.push({ rect, pixels: before });
      this.future = [];
      this.revision += 1;
      let bytes = this.past.reduce((sum, step) => sum + step.pixels.length, 0);
      while (bytes > UNDO_BYTES && this.past.length > 1) bytes -= this.past.shift().pixels.length;
    }

    #swap(from, to) {
      const step = from.pop();
      if (!step) return null;
      const { rect, pixels } = step;
      to.push({ rect, pixels: crop(this.data, this.width, rect) });
      for (let y = 0; y < rect.h; y += 1) {
        this.data.set(pixels.subarray(y * rect.w, (y + 1) * rect.w), (rect.y + y) * this.width + rect.x);
      }
      this.revision += 1;
      return rect;
    }

    async png() {
      const { width, height } = this;
      const rows = new Uint8Array((width + 1) * height); // each row: filter byte 0, then the pixels
      for (let y = 0; y < height; y += 1) rows.set(this.data.subarray(y * width, (y + 1) * width), y * (width + 1) + 1);
      const stream = new Blob([rows]).stream().pipeThrough(new CompressionStream("deflate"));
      const packed = new Uint8Array(await new Response(stream).arrayBuffer());
      const size = new DataView(new ArrayBuffer(13));
      size.setUint32(0, width);
      size.setUint32(4, height);
      size.setUint8(8, 8); // bits; the zeros that follow: grey, deflate, filters by row, not interlaced
      const signature = Uint8Array.of(137, 80, 78, 71, 13, 10, 26, 10);
      return new Blob([signature, chunk("IHDR", new Uint8Array(size.buffer)), chunk("IDAT", packed), chunk("IEND", new Uint8Array(0))],
        { type: "image/png" });
    }
  };

  function union(a, b) {
    if (!a) return b;
    const x = Math.min(a.x, b.x), y = Math.min(a.y, b.y);
    return { x, y, w: Math.max(a.x + a.w, b.x + b.w) - x, h: Math.max(a.y + a.h, b.y + b.h) - y };
  }

  function crop(data, width, rect) {
    const out = new Uint8Array(rect.w * rect.h);
    for (let y = 0; y < rect.h; y += 1) {
      const start = (rect.y + y) * width + rect.x;
      out.set(data.subarray(start, start + rect.w), y * rect.w);
    }
    return out;
  }

  function chunk(kind, body) {
    const out = new Uint8Array(body.length + 12), view = new DataView(out.buffer);
    view.setUint32(0, body.length);
    for (let i = 0; i < 4; i += 1) out[4 + i] = kind.charCodeAt(i);
    out.set(body, 8);
    view.setUint32(8 + body.length, crc(out.subarray(4, 8 + body.length)));
    return out;
  }

  function crc(bytes) {
    let value = 0xffffffff;
    for (const byte of bytes) {
      value ^= byte;
      for (let k = 0; k < 8; k += 1) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
    }
    return ~value >>> 0;
  }
})(window.easel);

// The pictures of a tab: in by any way, asked about one after the other, one of them on show.

import { curlLine, Fault, readable } from "./api.js";
import { announce, counted, el, fileName, showFault } from "./dom.js";
import { nameApart, nameOf, pathOf } from "./files.js";
import { decode, draw, markAt } from "./picture.js";
import { known } from "./service.js";
import { inMs, timingBar } from "./timings.js";

/** Several at once, so that a folder does not arrive as one crowd. */
const AT_ONCE = 2;
const MOST_PICTURES = 500;
const THUMB_PX = 120;

/**
 * @typedef {object} Entry One picture: its file, what was asked, what came back.
 * @property {File} file
 * @property {string} path Where it lay.
 * @property {string} name As little of that as tells it from the others.
 * @property {ImageBitmap|null} bitmap While it is on show.
 * @property {object[]} marks What was found.
 * @property {Object<string, string>|null} tried The options of the last request.
 * @property {Object<string, string>|null} asked The options of the last one that was answered.
 */

export class Album {
  /** @type {Entry[]} */
  entries = [];
  /** @type {Entry|null} */
  current = null;
  #hovered = -1;
  #numRunning = 0;
  #waiting = [];

  /**
   * @param {HTMLElement} panel Its parts are named by `data-part`.
   * @param {object} how
   * @param {string} how.path Where pictures are sent to.
   * @param {string} how.noun What is looked for.
   * @param {() => Object<string, string>} how.options What is asked now.
   * @param {(entry: Entry, form: FormData, signal: AbortSignal) => Promise<object>} how.look Asks about a picture;
   *   returns `marks`, `answer`, `stages` and `tookMs`.
   * @param {() => object} how.drawing What is drawn on the picture on show: `marks`, and how, as `draw` takes it.
   * @param {(index: number) => void} how.pick One of these was clicked, or with -1 none.
   * @param {(entry: Entry) => {text: string, isMatch?: boolean}} how.note What the strip says of a picture.
   * @param {() => void} how.changed Another picture is on show, or something was found or removed.
   */
  constructor(panel, how) {
    this.panel = panel;
    this.how = how;
    const canvas = this.part("canvas");
    canvas.addEventListener("pointermove", (event) => this.hover(this.#markAt(event)));
    canvas.addEventListener("pointerleave", () => this.hover(-1));
    canvas.addEventListener("click", (event) => { if (this.current?.bitmap) how.pick(this.#markAt(event)); });
    this.part("clear").addEventListener("click", () => this.clear());
    this.part("strip").addEventListener("keydown", (event) => this.#step(event));
    new ResizeObserver(() => this.redraw()).observe(this.part("figure"));
  }

  part(name) {
    return this.panel.querySelector(`[data-part="${name}"]`);
  }

  /** Look into files, and show the first of them. */
  add(files) {
    this.part("errors").replaceChildren();
    const added = files.slice(0, MOST_PICTURES - this.entries.length).map((file) => (
      { file, path: pathOf(file), name: nameOf(file), bitmap: null, thumb: null, size: "", marks: [], tried: null, asked: null }
    ));
    this.entries.push(...added);
    nameApart(this.entries);
    for (const entry of added) this.enqueue(entry);
    if (added.length) this.show(added[0]);
    if (added.length < files.length) showFault(this.part("errors"), `This page keeps ${MOST_PICTURES} pictures at a time; the others were left out. The command line takes any number.`);
  }

  /** Show another picture. */
  show(entry) {
    if (this.current !== entry) {
      this.#hovered = -1;
      // Decoded pictures are large: only the one on show is kept, so that a folder of them fits into memory.
      this.current?.bitmap?.close();
      if (this.current) this.current.bitmap = null;
      this.current = entry;
      if (entry) this.#decodeToShow(entry);
    }
    this.panel.dataset.empty = String(!this.entries.length);
    this.showStrip();
    if (entry) this.#scrollStripTo(entry.item.button);
    this.showPicture();
    this.#showRaw();
    this.how.changed();
  }

  /** Walk through the strip by arrows: Tab goes past it in one step, however many pictures there are. */
  #step(event) {
    const last = this.entries.length - 1;
    const index = this.entries.indexOf(this.current);
    const next = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: last }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    this.show(this.entries[Math.max(0, Math.min(last, next))]);
    this.current.item.button.focus();
  }

  remove(entry) {
    entry.running?.abort();
    const index = this.entries.indexOf(entry);
    if (index < 0) return;
    this.entries.splice(index, 1);
    nameApart(this.entries);
    this.show(entry === this.current ? this.entries[Math.min(index, this.entries.length - 1)] ?? null : this.current);
  }

  clear() {
    for (const entry of this.entries) entry.running?.abort();
    this.entries = [];
    this.part("errors").replaceChildren();
    this.show(null);
    announce("All pictures are cleared.");
    this.part("choose").focus();
  }

  /** Ask about a picture when there is room. */
  enqueue(entry) {
    entry.running?.abort();
    entry.running = new AbortController();
    this.#waiting.push({ entry, controller: entry.running });
    this.#next();
  }

  async #next() {
    if (this.#numRunning >= AT_ONCE || !this.#waiting.length) return;
    const { entry, controller } = this.#waiting.shift();
    this.#numRunning += 1;
    try {
      // What can be asked for is known once the service has told of its models.
      await known;
      if (!controller.signal.aborted) await this.#look(entry, controller);
    } finally {
      this.#numRunning -= 1;
      this.#next();
    }
  }

  async #look(entry, controller) {
    const options = this.how.options();
    entry.tried = options;
    const form = new FormData();
    form.append("file", entry.file, nameOf(entry.file));
    for (const [name, value] of Object.entries(options)) form.append(name, value);
    try {
      Object.assign(entry, await this.how.look(entry, form, controller.signal), { asked: options });
      if (!entry.thumb && entry !== this.current) {
        const bitmap = await decode(entry.file);
        if (bitmap) keepThumb(entry, bitmap);
        bitmap?.close();
      }
      const total = entry.stages.find(({ name }) => name === "total")?.ms ?? entry.tookMs;
      document.dispatchEvent(new Event("answered"));
      announce(`${entry.name}: ${counted(entry.marks.length, this.how.noun)} found in ${inMs(total)}.`);
    } catch (cause) {
      if (cause.name === "AbortError") return;
      if (!(cause instanceof Fault)) throw cause;
      showFault(this.part("errors"), cause.message, entry.name);
      // One that answered before keeps its answer; one that never did has nothing to show.
      if (!entry.asked) this.remove(entry);
    } finally {
      if (entry.running === controller) entry.running = null;
    }
    if (entry === this.current) {
      this.show(entry);
    } else {
      this.showStrip();
      this.how.changed();
    }
  }

  async #decodeToShow(entry) {
    const bitmap = await decode(entry.file);
    if (bitmap) keepThumb(entry, bitmap);
    if (entry === this.current && !entry.bitmap) {
      entry.bitmap = bitmap;
      this.showPicture();
      this.how.changed();
    } else {
      bitmap?.close();
    }
    this.showStrip();
  }

  /** Show the strip. Its items stay where they are: nobody's focus is lost, nobody's click misses. */
  showStrip() {
    const strip = this.part("strip");
    const numRunning = this.entries.filter((entry) => entry.running).length;
    for (const name of ["strip", "strip-top"]) this.part(name).hidden = this.entries.length < 2;
    this.part("count").textContent = `${counted(this.entries.length, "picture")}${numRunning ? `, ${numRunning} still to look at` : ""}`;
    const items = this.entries.map((entry) => {
      entry.item ??= thumbItem(() => this.show(entry));
      const { text, isMatch = false } = entry.running && !entry.asked ? { text: "…" } : this.how.note(entry);
      entry.item.update(entry, { text, isMatch, isCurrent: entry === this.current });
      return entry.item.button;
    });
    for (const button of [...strip.children]) if (!items.includes(button)) button.remove();
    strip.append(...items.filter((button) => !button.isConnected));
  }

  /** Have an item in sight, and leave the page where it is. */
  #scrollStripTo({ offsetLeft, offsetWidth }) {
    const strip = this.part("strip");
    strip.scrollLeft = Math.max(Math.min(strip.scrollLeft, offsetLeft - 3), offsetLeft + offsetWidth + 3 - strip.clientWidth);
  }

  showPicture() {
    const { current } = this;
    const canvas = this.part("canvas");
    this.part("figure").hidden = !current;
    this.part("busy").hidden = !current?.running;
    this.part("timings").hidden = !current?.stages;
    if (!current) return;
    const found = counted(this.how.drawing().marks.length, this.how.noun);
    canvas.setAttribute("aria-label", `${current.name}: ${current.asked ? found : `looking for ${this.how.noun}s`}`);
    const remove = el("button", { type: "button", class: "quiet-button", onclick: () => { this.remove(current); this.part("choose").focus(); } }, "Remove");
    this.part("caption").replaceChildren(
      el("b", {}, current.asked ? found : "…"), el("span", { class: "quiet caption-name" }, fileName(current.name)), el("span", { class: "quiet num" }, current.size), remove,
    );
    if (current.stages) this.part("timings").replaceChildren(timingBar(current.stages, current.tookMs));
    canvas.hidden = !current.bitmap;
    this.redraw();
  }

  redraw() {
    const canvas = this.part("canvas");
    const bitmap = this.current?.bitmap;
    if (!bitmap) return;
    // The shape first: the style sheet fits it into the page, and drawing then takes the width it got.
    canvas.style.aspectRatio = `${bitmap.width} / ${bitmap.height}`;
    canvas.style.setProperty("--shape", String(bitmap.width / bitmap.height));
    const { marks, ...how } = this.how.drawing();
    draw(canvas, bitmap, marks, { hovered: this.#hovered, ...how });
  }

  /** Mark one of those that are drawn, or with -1 none. */
  hover(index) {
    if (this.#hovered === index) return;
    this.#hovered = index;
    this.redraw();
  }

  #markAt({ offsetX, offsetY }) {
    const bitmap = this.current?.bitmap;
    return bitmap ? markAt(this.part("canvas"), bitmap, this.how.drawing().marks, offsetX, offsetY) : -1;
  }

  #showRaw() {
    const { current } = this;
    this.part("raw").hidden = !current?.asked;
    if (!current?.asked) return;
    this.part("curl").textContent = curlLine(this.how.path, [current.path], current.asked);
    this.part("json").textContent = readable(current.answer);
  }

  /** Return the whole texts that the copy buttons copy, by the ids of their places. */
  texts() {
    return { [this.part("curl").id]: this.part("curl").textContent, [this.part("json").id]: JSON.stringify(this.current?.answer, null, 2) };
  }
}

/** A picture in the strip, and how it is kept up to date. */
function thumbItem(onShow) {
  const name = el("span", { class: "thumb-name" });
  const note = el("span", { class: "small num note" });
  const button = el("button", { type: "button", class: "thumb", onclick: onShow }, name, note);
  const update = (entry, { text, isMatch, isCurrent }) => {
    if (entry.thumb && !entry.thumb.isConnected) button.prepend(entry.thumb);
    if (name.textContent !== entry.name) name.replaceChildren(fileName(entry.name));
    if (note.textContent !== text) note.textContent = text;
    button.classList.toggle("is-match", isMatch);
    button.tabIndex = isCurrent ? 0 : -1;
    if (isCurrent) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  };
  return { button, update };
}

/** Keep what stays of a picture when its pixels are given up: its size in words, and a small square of its middle. */
function keepThumb(entry, bitmap) {
  entry.size = `${bitmap.width} × ${bitmap.height}`;
  entry.thumb ??= thumbOf(bitmap);
}

function thumbOf(bitmap) {
  const scale = THUMB_PX / Math.min(bitmap.width, bitmap.height);
  const canvas = el("canvas", { width: String(THUMB_PX), height: String(THUMB_PX), "aria-hidden": "true" });
  const [width, height] = [bitmap.width * scale, bitmap.height * scale];
  canvas.getContext("2d").drawImage(bitmap, (THUMB_PX - width) / 2, (THUMB_PX - height) / 2, width, height);
  return canvas;
}

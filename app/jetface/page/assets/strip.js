// The strip of small pictures, when there are several.

import { counted, el } from "./dom.js";
import { likeness } from "./faces.js";

const THUMB_PX = 120;

/**
 * Return one item for each picture: how many faces it has, or how alike its best one is to the chosen face.
 * @param {object[]} entries As `find.js` keeps them.
 * @param {{current: object|null, chosen: object|null, onShow: (entry: object) => void}} how
 */
export function stripItems(entries, { current, chosen, onShow }) {
  return entries.map((entry) => {
    const button = el(
      "button", { type: "button", class: "thumb", "aria-current": entry === current && "true", onclick: () => onShow(entry) },
      entry.thumb, el("span", { class: "thumb-name" }, entry.name), el("span", { class: "small num" }, noteOf(entry, chosen)),
    );
    return el("li", {}, button);
  });
}

function noteOf(entry, chosen) {
  if (entry.running && !entry.asked) return "…";
  const alike = chosen && !entry.faces.includes(chosen) ? entry.faces.map((face) => likeness(chosen, face) ?? -1) : [];
  return alike.length ? `alike ${Math.max(...alike).toFixed(2)}` : counted(entry.faces.length, "face");
}

/** Keep what stays of a picture when its pixels are given up: its size in words, and a small square of its middle. */
export function keepThumb(entry, bitmap) {
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

// Plates: licence plates found and read, where the service has that turned on.

import { Album } from "./album.js";
import { askPatiently, Fault } from "./api.js";
import { byId, counted, el } from "./dom.js";

const CROP_PX = 240;
/** Around a plate, as a share of its width, so that its frame can be seen. */
const MARGIN = 0.06;

let album;
let chosen = null;

/** Look for plates in files. */
export const addToPlates = (files) => album.add(files);

async function look(entry, form, signal) {
  const { answer, stages, tookMs } = await askPatiently("plates", { form, signal });
  const [slot] = answer.pictures;
  if (slot.status !== "ok") throw new Fault(`It could not be read. ${slot.error?.message ?? ""}`);
  const marks = slot.plates.map((plate) => ({ ...plate, label: plate.text || "not read" }));
  return { answer, stages, tookMs, marks };
}

const drawing = () => ({ marks: album.current?.marks ?? [], chosen: (album.current?.marks ?? []).indexOf(chosen) });

const note = (entry) => ({ text: entry.marks.map(({ text }) => text).filter(Boolean).join(" ") || counted(entry.marks.length, "plate") });

function showPlates() {
  const { current } = album;
  const list = byId("plates-list");
  const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  if (!current?.marks.includes(chosen)) chosen = null;
  byId("plates-title").textContent = current?.asked ? counted(current.marks.length, "plate") : "Plates";
  list.replaceChildren(...(current?.marks ?? []).map((plate, index) => plateCard(plate, index, current.bitmap)));
  if (current?.asked && !current.marks.length) list.append(el("li", { class: "quiet" }, "No licence plate was found."));
  if (focused >= 0) list.children[focused]?.firstElementChild?.focus();
}

function plateCard(plate, index, bitmap) {
  const characters = plate.characters.map(({ character, confidence }) => (
    el("span", { class: `character${confidence < 0.8 ? " is-unsure" : ""}` }, el("b", {}, character), el("small", { class: "num" }, confidence.toFixed(2)))
  ));
  const button = el(
    "button",
    {
      type: "button", class: "face plate", "aria-pressed": String(plate === chosen), onclick: () => choose(plate),
      onpointerenter: () => album.hover(index), onpointerleave: () => album.hover(-1), onfocus: () => album.hover(index), onblur: () => album.hover(-1),
    },
    bitmap && cropOf(bitmap, plate.box),
    el("b", { class: "plate-text" }, plate.text || "Not read"),
    el("span", { class: "small quiet num" }, `${plate.text ? `confidence ${plate.confidence.toFixed(2)} · ` : ""}score ${plate.score.toFixed(2)}`),
    characters.length > 0 && el("span", { class: "characters", role: "img", "aria-label": `Confidence of each character: ${plate.characters.map(({ character, confidence }) => `${character} ${confidence.toFixed(2)}`).join(", ")}` }, ...characters),
  );
  return el("li", {}, button);
}

function cropOf(bitmap, [x1, y1, x2, y2]) {
  const margin = (x2 - x1) * MARGIN;
  const [width, height] = [x2 - x1 + 2 * margin, y2 - y1 + 2 * margin];
  const canvas = el("canvas", { class: "plate-crop", width: String(CROP_PX), height: String(Math.max(1, Math.round(CROP_PX * height / width))), "aria-hidden": "true" });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, x1 - margin, y1 - margin, width, height, 0, 0, canvas.width, canvas.height);
  return canvas;
}

function choose(plate) {
  chosen = plate === chosen ? null : plate;
  showPlates();
  album.redraw();
}

/** Return the full texts the copy buttons copy. */
export const texts = () => album.texts();

/** Connect the controls; the tab is there once the service says that it reads plates. */
export function startPlates() {
  const pick = (index) => choose(album.current.marks[index] ?? chosen);
  album = new Album(byId("plates"), { path: "plates", noun: "plate", options: () => ({}), look, drawing, pick, note, changed: showPlates });
}

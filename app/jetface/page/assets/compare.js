// Compare: two pictures side by side, and how alike their largest faces are.

import { askPatiently, curlLine, Fault, readable } from "./api.js";
import { takePicture } from "./camera.js";
import { announce, byId, el, showFault } from "./dom.js";
import { filesOf, hasFiles, nameOf } from "./files.js";
import { decode, draw } from "./picture.js";
import { timingBar } from "./timings.js";

const slots = [0, 1].map((number) => ({ number, file: null, bitmap: null, faces: [], note: "" }));
const NAMES = ["First picture", "Second picture"];
let similarity = null;
let answer = null;
let running = null;

/** What the service takes for one person where nobody says; the slider, once moved, says. */
let suited = null;
let isMoved = false;
const threshold = () => (isMoved || !suited ? Number(byId("match").value) : suited.match_threshold);
const inWords = (value) => value.toFixed(3).replace(/0$/, "");

/** Put files into the slots: the first empty one first, else the second. */
export async function addToCompare(files) {
  for (const file of files.slice(0, 2)) await fill(slots.find((slot) => !slot.file) ?? slots[1], file);
}

async function fill(slot, file) {
  Object.assign(slot, { file, bitmap: null, faces: [], note: "" });
  similarity = null;
  showVerdict();
  byId("compare-errors").replaceChildren();
  slot.bitmap = await decode(file);
  showSlot(slot);
  await compare();
}

async function compare() {
  running?.abort();
  if (slots.some((slot) => !slot.file)) return;
  const controller = new AbortController();
  running = controller;
  const form = new FormData();
  for (const slot of slots) form.append("file", slot.file, nameOf(slot.file));
  form.append("threshold", inWords(threshold()));
  try {
    const result = await askPatiently("compare", { form, signal: controller.signal });
    document.dispatchEvent(new Event("answered"));
    answer = result.answer;
    similarity = answer.similarity;
    answer.pictures.forEach((picture, index) => {
      slots[index].faces = picture.faces;
      slots[index].note = picture.status === "ok" ? (picture.faces.length ? "" : "No face found") : `It could not be read. ${picture.error?.message ?? ""}`;
      showSlot(slots[index]);
    });
    byId("compare-timings").replaceChildren(timingBar(result.stages, result.tookMs));
    byId("compare-curl").textContent = curlLine("compare", slots.map((slot) => nameOf(slot.file)), { threshold: inWords(threshold()) });
    byId("compare-json").textContent = readable(answer);
    showVerdict();
    announce(similarity === null ? slots.map((slot) => slot.note).filter(Boolean).join(". ") : `Similarity ${similarity.toFixed(2)}. ${verdict()}`);
  } catch (cause) {
    if (cause.name === "AbortError") return;
    if (!(cause instanceof Fault)) throw cause;
    showFault(byId("compare-errors"), cause.message);
  }
}

const verdict = () => (similarity >= threshold() ? "Probably the same person." : "Probably two people.");

/** Say what the line means that the service draws. */
function origin() {
  if (!suited) return "";
  const { rec_name: name, match_threshold: value, false_match_rate: rate } = suited;
  const rarity = rate ? `: there about one pair of two people in ${Math.round(1 / rate).toLocaleString("en")} is taken for one` : "";
  return `${name} is used with ${inWords(value)} where nobody says${rarity}.`;
}

function showVerdict() {
  const card = byId("verdict");
  card.hidden = similarity === null;
  if (similarity === null) return;
  byId("similarity").textContent = similarity.toFixed(2);
  byId("verdict-text").textContent = verdict();
  byId("verdict-note").textContent = `Cosine similarity of the largest face of each. ${origin()} Where to draw the line depends on the model and on your pictures: find it on pictures of your own.`;
  card.dataset.match = String(similarity >= threshold());
  const percent = (value) => `${Math.max(0, Math.min(1, value)) * 100}%`;
  byId("scale").querySelector(".scale-fill").style.width = percent(similarity);
  byId("scale").querySelector(".scale-mark").style.insetInlineStart = percent(threshold());
}

function showSlot(slot) {
  const place = byId(`slot-${slot.number}`);
  const name = NAMES[slot.number];
  const hadFocus = place.contains(document.activeElement);
  const input = el("input", { type: "file", accept: "image/*", hidden: true, "aria-label": name, onchange: () => input.files.length && fill(slot, input.files[0]) });
  const choose = el("button", { type: "button", class: slot.file ? "quiet-button" : "primary", onclick: () => input.click(), "aria-label": `${slot.file ? "Another" : "Choose"} ${name.toLowerCase()}` }, slot.file ? "Another" : "Choose");
  const camera = el("button", { type: "button", class: slot.file ? "quiet-button" : "", onclick: () => shoot(slot), "aria-label": `Camera for the ${name.toLowerCase()}` }, "Camera");
  const buttons = el("div", { class: "buttons" }, choose, camera, input);
  if (!slot.file) {
    place.replaceChildren(el("h2", {}, name), el("p", { class: "quiet small" }, "Drop it here"), buttons);
    place.dataset.empty = "true";
  } else {
    const found = slot.faces.length ? "its largest face is marked" : slot.note || "not compared yet";
    const canvas = el("canvas", { role: "img", "aria-label": `${nameOf(slot.file)}: ${found}` });
    place.replaceChildren(
      slot.bitmap ? canvas : el("p", { class: "quiet" }, "This browser cannot show the file."),
      slot.note && el("p", { class: "slot-note" }, slot.note),
      el("div", { class: "slot-bottom" }, el("span", { class: "quiet file" }, nameOf(slot.file)), buttons),
    );
    place.dataset.empty = "false";
    slot.canvas = canvas;
    redraw(slot);
  }
  if (hadFocus) choose.focus();
}

function redraw(slot) {
  if (!slot.bitmap || !slot.canvas?.isConnected) return;
  slot.canvas.style.aspectRatio = `${slot.bitmap.width} / ${slot.bitmap.height}`;
  slot.canvas.style.setProperty("--shape", String(slot.bitmap.width / slot.bitmap.height));
  draw(slot.canvas, slot.bitmap, slot.faces, { hovered: 0, labels: false });
}

async function shoot(slot) {
  const picture = await takePicture();
  if (picture) await fill(slot, picture);
}

/** Return the full texts the copy buttons copy. */
export const texts = () => ({ "compare-curl": byId("compare-curl").textContent, "compare-json": JSON.stringify(answer, null, 2) });

/** Connect the controls. */
export function startCompare() {
  for (const slot of slots) {
    const place = byId(`slot-${slot.number}`);
    showSlot(slot);
    place.addEventListener("dragover", () => { place.dataset.over = "true"; });
    place.addEventListener("dragleave", () => { delete place.dataset.over; });
    place.addEventListener("drop", async (event) => {
      delete place.dataset.over;
      if (!hasFiles(event.dataTransfer)) return;
      event.preventDefault();
      event.stopPropagation();
      const files = await filesOf(event.dataTransfer);
      if (files.length > 1) await addToCompare(files);
      else if (files.length) await fill(slot, files[0]);
    });
    new ResizeObserver(() => redraw(slot)).observe(place);
  }
  document.addEventListener("defaults", ({ detail: { models } }) => {
    if (models.match_threshold === null) return;
    suited = models;
    // The slider may have been moved before the service told.
    if (isMoved) return;
    byId("match").value = String(models.match_threshold);
    byId("match-value").textContent = inWords(threshold());
    showVerdict();
  });
  byId("match").addEventListener("input", () => {
    isMoved = true;
    byId("match-value").textContent = inWords(threshold());
    showVerdict();
  });
}

// Find: pictures in, faces drawn on them.

import { ask, curlLine, Fault, readable } from "./api.js";
import { announce, byId, counted, el, showFault } from "./dom.js";
import { faceCards, qualityOf } from "./faces.js";
import { whoAre } from "./people.js";
import { decode, draw, faceAt, toVector } from "./picture.js";
import { service } from "./service.js";
import { keepThumb, stripItems } from "./strip.js";
import { inMs, timingBar } from "./timings.js";

const AT_ONCE = 2;

/** One picture: its file, what was asked, what came back. */
const entries = [];
let current = null;
let chosen = null;
let hovered = -1;
let numRunning = 0;
const waiting = [];

const threshold = () => Number(byId("threshold").value);

/** Look for faces in files, and show the first of them. */
export async function addPictures(files) {
  const added = files.map((file) => ({ file, name: file.name || "pasted picture", bitmap: null, thumb: null, size: "", faces: [], asked: null }));
  if (!added.length) return;
  byId("find-errors").replaceChildren();
  entries.push(...added);
  for (const entry of added) enqueue(entry);
  show(added[0]);
}

/** Show another picture, asking again when the threshold has moved since. */
function show(entry) {
  if (current !== entry) {
    hovered = -1;
    // Decoded pictures are large: only the one on show is kept, so that a folder of them fits into memory.
    current?.bitmap?.close();
    if (current) current.bitmap = null;
    current = entry;
    if (entry) decodeToShow(entry);
  }
  byId("find").dataset.empty = String(!entries.length);
  if (entry?.asked && entry.asked.threshold !== threshold() && !entry.running) enqueue(entry);
  showStrip();
  showPicture();
  showFaces();
  showRaw();
}

async function decodeToShow(entry) {
  const bitmap = await decode(entry.file);
  if (bitmap) keepThumb(entry, bitmap);
  if (entry === current && !entry.bitmap) {
    entry.bitmap = bitmap;
    showPicture();
  } else {
    bitmap?.close();
  }
  showStrip();
}

/** Ask for an entry when there is room; several at once, so that a folder does not arrive as one crowd. */
function enqueue(entry) {
  entry.running?.abort();
  entry.running = new AbortController();
  waiting.push({ entry, controller: entry.running });
  next();
}

async function next() {
  if (numRunning >= AT_ONCE || !waiting.length) return;
  const { entry, controller } = waiting.shift();
  if (controller.signal.aborted) return void next();
  numRunning += 1;
  try {
    await look(entry, controller);
  } finally {
    numRunning -= 1;
    next();
  }
}

async function look(entry, controller) {
  const options = optionsNow();
  const form = new FormData();
  form.append("file", entry.file, entry.name);
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  try {
    const { answer, stages, tookMs } = await ask("extract", { form, signal: controller.signal });
    const [slot] = answer.data;
    if (slot.status !== "ok") throw new Fault(`It could not be read. ${slot.traceback}`);
    Object.assign(entry, { answer, stages, tookMs, asked: { threshold: Number(options.threshold), options }, faces: slot.faces.map(toFace) });
    await name(entry, controller.signal);
    if (!entry.thumb && entry !== current) {
      const bitmap = await decode(entry.file);
      if (bitmap) keepThumb(entry, bitmap);
      bitmap?.close();
    }
    const total = stages.find(({ name }) => name === "total")?.ms ?? tookMs;
    document.dispatchEvent(new Event("answered"));
    announce(`${entry.name}: ${counted(entry.faces.length, "face")} found in ${inMs(total)}.`);
  } catch (cause) {
    if (cause.name === "AbortError") return;
    if (!(cause instanceof Fault)) throw cause;
    showFault(byId("find-errors"), `${entry.name}: ${cause.message}`);
    // One that answered before keeps its answer; one that never did has nothing to show.
    if (!entry.asked) drop(entry);
  } finally {
    if (entry.running === controller) entry.running = null;
  }
  if (chosen && !entries.some((other) => other.faces.includes(chosen))) chosen = null;
  if (entry === current) show(entry);
  else showStrip();
}

/** Write the names of those who are enrolled on their faces. */
async function name(entry, signal) {
  const embedded = entry.faces.filter(({ raw }) => raw.vec);
  const people = await whoAre(embedded.map(({ raw }) => raw.vec), signal);
  embedded.forEach((face, index) => {
    face.who = people?.[index] ?? null;
    face.label = face.who ? `${face.who.name} ${face.who.similarity.toFixed(2)}` : face.raw.prob.toFixed(2);
  });
}

function optionsNow() {
  return {
    threshold: threshold().toFixed(2), return_landmarks: "true", return_face_data: "true",
    return_quality: "true", rotations: "auto", embedding_format: "base64", ...service.stages,
  };
}

function toFace(raw) {
  return {
    raw, box: raw.bbox, score: raw.prob, landmarks: raw.landmarks, label: raw.prob.toFixed(2),
    crop: raw.facedata ? `data:image/jpeg;base64,${raw.facedata}` : null, vector: raw.vec ? toVector(raw.vec) : null,
  };
}

function drop(entry) {
  entry.running?.abort();
  const index = entries.indexOf(entry);
  if (index < 0) return;
  entries.splice(index, 1);
  if (entry.faces.includes(chosen)) chosen = null;
  if (entry === current) show(entries[Math.min(index, entries.length - 1)] ?? null);
  else showStrip();
}

/** Faces over the slider: it hides at once, and asks anew when it comes to rest. */
const shownFaces = () => (current?.faces ?? []).filter((face) => face.score >= threshold() - 1e-6);

function showStrip() {
  byId("strip").hidden = entries.length < 2;
  byId("strip").replaceChildren(...stripItems(entries, { current, chosen, onShow: show }));
}

function showPicture() {
  const canvas = byId("canvas");
  byId("figure").hidden = !current;
  byId("busy").hidden = !current?.running;
  byId("timings").hidden = !current?.stages;
  if (!current) return;
  const faces = shownFaces();
  const found = current.asked ? counted(faces.length, "face") : "looking for faces";
  canvas.setAttribute("aria-label", `${current.name}: ${found}`);
  const remove = el("button", { type: "button", class: "quiet-button", onclick: () => { drop(current); byId("find-choose").focus(); } }, "Remove");
  byId("caption").replaceChildren(
    el("b", {}, current.asked ? counted(faces.length, "face") : "…"), el("span", { class: "quiet file" }, current.name), el("span", { class: "quiet num" }, current.size), remove,
  );
  if (current.stages) byId("timings").replaceChildren(timingBar(current.stages, current.tookMs));
  canvas.hidden = !current.bitmap;
  redraw();
}

function redraw() {
  const canvas = byId("canvas");
  if (!current?.bitmap) return;
  // The shape first: the style sheet fits it into the page, and drawing then takes the width it got.
  canvas.style.aspectRatio = `${current.bitmap.width} / ${current.bitmap.height}`;
  canvas.style.setProperty("--shape", String(current.bitmap.width / current.bitmap.height));
  const faces = shownFaces();
  draw(canvas, current.bitmap, faces, {
    chosen: faces.indexOf(chosen), hovered, landmarks: byId("show-landmarks").checked, labels: byId("show-scores").checked,
  });
}

function showFaces() {
  const faces = shownFaces();
  const list = byId("faces");
  const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  const hint = byId("faces-hint");
  const canCompare = faces.some((face) => face.vector) && (faces.length > 1 || entries.length > 1);
  hint.textContent = faces.includes(chosen) ? qualityOf(chosen.raw) : canCompare ? "Choose a face to see how alike the others are." : "";
  hint.hidden = !hint.textContent;
  byId("faces-title").textContent = current?.asked ? counted(faces.length, "face") : "Faces";
  list.replaceChildren(...faceCards(faces, { chosen, onChoose: choose, onHover: hover }));
  if (focused >= 0) list.children[Math.min(focused, faces.length - 1)]?.firstElementChild.focus();
  if (current?.asked && !faces.length) list.append(el("li", { class: "none quiet" }, "No face reaches this score. A lower one may find more."));
}

function choose(index) {
  const face = shownFaces()[index] ?? null;
  chosen = face === chosen ? null : face;
  showFaces();
  showStrip();
  redraw();
}

function hover(index) {
  if (hovered === index) return;
  hovered = index;
  redraw();
}

function showRaw() {
  byId("raw").hidden = !current?.asked;
  if (!current?.asked) return;
  byId("curl").textContent = curlLine("extract", [current.name], current.asked.options);
  byId("json").textContent = readable(current.answer);
}

/** Return the full texts the copy buttons copy. */
export const texts = () => ({ curl: byId("curl").textContent, json: JSON.stringify(current?.answer, null, 2) });

/** Connect the controls. */
export function startFind() {
  const slider = byId("threshold");
  slider.addEventListener("input", () => {
    byId("threshold-value").textContent = threshold().toFixed(2);
    showPicture();
    showFaces();
  });
  slider.addEventListener("change", () => { if (current) show(current); });
  document.addEventListener("defaults", ({ detail }) => {
    // The slider may have been moved since the first picture came.
    if (entries.length) return;
    slider.value = String(detail.defaults.det_thresh);
    byId("threshold-value").textContent = threshold().toFixed(2);
  });
  // Somebody was enrolled or deleted: the faces are the same, their names may not be.
  document.addEventListener("peoplechanged", async () => {
    for (const entry of entries) if (entry.asked && !entry.running) await name(entry);
    showPicture();
    showFaces();
  });
  for (const id of ["show-landmarks", "show-scores"]) byId(id).addEventListener("change", redraw);
  const canvas = byId("canvas");
  canvas.addEventListener("pointermove", (event) => hover(current?.bitmap ? faceAt(canvas, current.bitmap, shownFaces(), event.offsetX, event.offsetY) : -1));
  canvas.addEventListener("pointerleave", () => hover(-1));
  canvas.addEventListener("click", (event) => {
    if (current?.bitmap) choose(faceAt(canvas, current.bitmap, shownFaces(), event.offsetX, event.offsetY));
  });
  new ResizeObserver(redraw).observe(byId("figure"));
}

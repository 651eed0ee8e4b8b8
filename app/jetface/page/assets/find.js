// Find: pictures in, faces drawn on them; who is like whom.

import { Album } from "./album.js";
import { ask, askPatiently, Fault } from "./api.js";
import { announce, byId, counted, el } from "./dom.js";
import { faceCard, isMatch, likeness, qualityOf, toFace } from "./faces.js";
import { groupsOf } from "./groups.js";
import { whoAre } from "./people.js";
import { service } from "./service.js";

/** More cards than anybody looks at slow a browser down; the most alike come first. */
const MOST_CARDS = 600;
/** So many faces' crops and embeddings are some 100 MB. */
const MOST_FACES = 10000;
/** Grouping takes time with the square of it, about a second for these. */
const MOST_GROUPED = 1000;
/** Of a name on a box, so many characters. */
const MOST_LABELLED = 24;
/** How often a list of many pictures' faces is made anew while they come in. */
const LIST_PAUSE_MS = 400;

let chosen = null;
let isThresholdMoved = false;
let album;

const threshold = () => Number(byId("threshold").value);
const view = () => (album.entries.length > 1 ? byId("views").querySelector(":checked").value : "picture");

/** Faces over the slider: it hides at once, and asks anew when it comes to rest. */
const shownOf = (entry) => (entry?.marks ?? []).filter((face) => face.score >= threshold() - 1e-6);
const allShown = () => album.entries.flatMap(shownOf);

/** Look for faces in files. */
export const addToFind = (files) => album.add(files);

async function look(entry, form, signal) {
  if (album.entries.reduce((sum, { marks }) => sum + marks.length, 0) >= MOST_FACES) throw new Fault(`This page keeps ${MOST_FACES.toLocaleString("en")} faces at a time.`);
  const { answer, stages, tookMs } = await askPatiently("extract", { form, signal });
  const [slot] = answer.data;
  if (slot.status !== "ok") throw new Fault(`It could not be read. ${slot.traceback}`);
  const marks = slot.faces.map((raw, index) => toFace(raw, entry, index + 1));
  await writeNames(marks, signal);
  // The chosen face stays chosen when its picture is asked about again, if it is found again.
  if (chosen?.entry === entry) chosen = marks.find(({ box }) => box.every((value, index) => Math.abs(value - chosen.box[index]) < 2)) ?? null;
  return { answer, stages, tookMs, marks };
}

/** Return the faces of a frame of the camera, with the names of those who are enrolled. */
export async function lookAtFrame(frame, signal) {
  const form = new FormData();
  form.append("file", frame);
  const options = { threshold: threshold().toFixed(2), embedding_format: "base64", extract_embedding: service.stages.extract_embedding };
  for (const [name, value] of Object.entries(options)) form.append(name, value);
  const { answer: { data: [slot] } } = await ask("extract", { form, signal });
  if (slot.status !== "ok") throw new Fault(`It could not be read. ${slot.traceback}`);
  const faces = slot.faces.map((raw, index) => toFace(raw, null, index + 1));
  await writeNames(faces, signal);
  return faces;
}

/** Write the names of those who are enrolled on their faces. */
async function writeNames(faces, signal) {
  const embedded = faces.filter(({ raw }) => raw.vec);
  const people = await whoAre(embedded.map(({ raw }) => raw.vec), signal);
  embedded.forEach((face, index) => {
    face.who = people?.[index] ?? null;
    face.label = face.who ? `${shortened(face.who.name)} ${face.who.similarity.toFixed(2)}` : face.raw.prob.toFixed(2);
  });
}

const shortened = (name) => (name.length > MOST_LABELLED ? `${name.slice(0, MOST_LABELLED - 1).trimEnd()}…` : name);

const options = () => ({
  threshold: threshold().toFixed(2), return_landmarks: "true", return_face_data: "true",
  return_quality: "true", rotations: "auto", embedding_format: "base64", ...service.stages,
});

function drawing() {
  const marks = shownOf(album.current);
  const matched = new Set(chosen ? marks.flatMap((face, index) => (face !== chosen && isMatch(likeness(chosen, face)) ? [index] : [])) : []);
  return { marks, chosen: marks.indexOf(chosen), matched, landmarks: byId("show-landmarks").checked, labels: byId("show-scores").checked };
}

/** What the strip says: how many faces a picture has, or how alike its best one is to the chosen face. */
function note(entry) {
  const alike = chosen && chosen.entry !== entry ? entry.marks.map((face) => likeness(chosen, face)).filter((value) => value !== null) : [];
  if (!alike.length) return { text: counted(entry.marks.length, "face") };
  const best = Math.max(...alike);
  return { text: `${isMatch(best) ? "match" : "alike"} ${best.toFixed(2)}`, isMatch: isMatch(best) };
}

/** Another picture, another answer: what was asked with another threshold is asked again, and the list follows. */
function changed() {
  const wanted = threshold().toFixed(2);
  const listed = view() === "picture" ? [album.current].filter(Boolean) : album.entries;
  for (const entry of listed) if (entry.tried && entry.tried.threshold !== wanted && !entry.running) album.enqueue(entry);
  if (chosen && !album.entries.includes(chosen.entry)) chosen = null;
  showFacesSoon();
}

let timer = 0;
let isStale = false;

/** Show the list: of one picture at once; of many with a pause before, and one after that is as long as it took. */
function showFacesSoon() {
  if (view() === "picture") return void showFaces();
  isStale = true;
  timer ||= setTimeout(() => {
    const started = performance.now();
    isStale = false;
    showFaces();
    timer = setTimeout(() => {
      timer = 0;
      if (isStale) showFacesSoon();
    }, performance.now() - started);
  }, LIST_PAUSE_MS);
}

function showFaces() {
  const list = byId("faces");
  const focused = document.activeElement.closest?.("#faces li")?.face;
  const isByPicture = view() === "picture";
  const faces = isByPicture ? shownOf(album.current) : allShown();
  byId("views").hidden = album.entries.length < 2 || !album.entries.some(({ marks }) => marks.some(({ vector }) => vector));
  byId("faces-title").textContent = isByPicture && !album.current?.asked ? "Faces" : counted(faces.length, "face");
  showHint(faces);
  if (view() === "people") list.replaceChildren(...personGroups(faces));
  else list.replaceChildren(el("ul", { class: "faces" }, ...cards(sorted(faces))));
  if (album.current?.asked && !faces.length) list.append(el("p", { class: "quiet" }, "No face reaches this score. A lower one may find more."));
  if (focused) [...list.querySelectorAll("li")].find(({ face }) => face === focused)?.firstElementChild.focus();
}

/** The chosen one first, then those most like it; as they came where none is chosen. */
function sorted(faces) {
  if (!chosen) return faces;
  const rank = new Map(faces.map((face) => [face, face === chosen ? Infinity : likeness(chosen, face) ?? -Infinity]));
  return [...faces].sort((a, b) => rank.get(b) - rank.get(a) || 0);
}

const cards = (faces) => faces.slice(0, MOST_CARDS).map((face) => faceCard(face, { chosen, isOfMany: view() !== "picture", onChoose: choose, onHover: hover, onShow: showFace }));

function personGroups(faces) {
  const embedded = faces.filter(({ vector }) => vector).slice(0, MOST_GROUPED);
  const groups = groupsOf(embedded.map(({ vector }) => vector), service.matchThreshold).map((group) => group.map((index) => embedded[index]));
  const several = groups.filter(({ length }) => length > 1);
  const once = groups.filter(({ length }) => length === 1).flat();
  const sections = several.map((group, index) => {
    const name = group.find(({ who }) => who)?.who.name ?? `Person ${index + 1}`;
    const numPictures = new Set(group.map(({ entry }) => entry)).size;
    return groupOf(name, `${counted(group.length, "face")} on ${counted(numPictures, "picture")}`, group);
  });
  if (once.length) sections.push(groupOf("Seen once", counted(once.length, "face"), once));
  return sections;
}

const groupOf = (name, note, faces) => el("section", { class: "group" }, el("h3", {}, name, " ", el("span", { class: "quiet small" }, note)), el("ul", { class: "faces" }, ...cards(faces)));

function showHint(faces) {
  const hint = byId("faces-hint");
  const canCompare = service.matchThreshold !== null && (faces.some(({ vector }) => vector) && (faces.length > 1 || album.entries.length > 1));
  const hints = [];
  if (chosen) hints.push(matchesInWords(), qualityOf(chosen.raw));
  else if (canCompare) hints.push("Choose a face to see how alike the others are.");
  const numListed = view() === "people" ? Math.min(MOST_GROUPED, MOST_CARDS) : MOST_CARDS;
  if (faces.length > numListed) hints.push(`The first ${numListed} are shown.`);
  hint.replaceChildren(...hints.filter(Boolean).map((text) => el("span", {}, text)));
  hint.hidden = !hint.childElementCount;
}

/** How many faces of all pictures are the chosen one's, by the recognizer's own threshold. */
function matchesInWords() {
  const others = allShown().filter((face) => face !== chosen && face.vector);
  if (!chosen.vector || !others.length) return "";
  const numMatches = others.filter((face) => isMatch(likeness(chosen, face))).length;
  return `${numMatches} of ${counted(others.length, "other face")} ${numMatches === 1 ? "matches" : "match"}, from ${service.matchThreshold.toFixed(2)} up.`;
}

function choose(face) {
  chosen = face === chosen ? null : face;
  if (chosen && chosen.entry !== album.current) album.show(chosen.entry);
  album.showStrip();
  showFaces();
  album.redraw();
  if (chosen) announce(matchesInWords());
}

const hover = (face) => album.hover(face ? shownOf(album.current).indexOf(face) : -1);

/** Show the picture of a face, and the face on it. */
function showFace(face) {
  album.show(face.entry);
  hover(face);
}

/** Return the full texts the copy buttons copy. */
export const texts = () => album.texts();

/** Connect the controls. */
export function startFind() {
  const pick = (index) => choose(shownOf(album.current)[index] ?? chosen);
  album = new Album(byId("find"), { path: "extract", noun: "face", options, look, drawing, pick, note, changed });
  const slider = byId("threshold");
  slider.addEventListener("input", () => {
    isThresholdMoved = true;
    byId("threshold-value").textContent = threshold().toFixed(2);
    album.showPicture();
    showFacesSoon();
  });
  slider.addEventListener("change", changed);
  document.addEventListener("defaults", ({ detail }) => {
    if (isThresholdMoved) return;
    slider.value = String(detail.defaults.det_thresh);
    byId("threshold-value").textContent = threshold().toFixed(2);
  });
  byId("views").addEventListener("change", changed);
  // Somebody was enrolled or deleted: the faces are the same, their names may not be.
  document.addEventListener("peoplechanged", async () => {
    for (const entry of album.entries) if (entry.asked && !entry.running) await writeNames(entry.marks);
    album.showPicture();
    showFaces();
  });
  for (const id of ["show-landmarks", "show-scores"]) byId(id).addEventListener("change", () => album.redraw());
}

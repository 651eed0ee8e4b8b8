// Cards of faces: crops, scores, attributes, and how alike they are to the chosen one.

import { el, fileName } from "./dom.js";
import { cosine } from "./groups.js";
import { service } from "./service.js";

/** Return a face as the page keeps it, from what the service told of it on the picture of `entry`. */
export function toFace(raw, entry, number) {
  return {
    raw, entry, number, box: raw.bbox, score: raw.prob, landmarks: raw.landmarks, label: raw.prob.toFixed(2), who: null,
    crop: raw.facedata ? `data:image/jpeg;base64,${raw.facedata}` : null, vector: raw.vec ? toVector(raw.vec) : null,
  };
}

/** Return an embedding that came as base64 of little-endian float32. */
function toVector(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Float32Array.from({ length: bytes.length / 4 }, (_, index) => view.getFloat32(4 * index, true));
}

/** Return how alike two faces are, a cosine; null when one has no embedding. */
export function likeness(first, second) {
  return first.vector && second.vector ? cosine(first.vector, second.vector) : null;
}

/** Whether a likeness is that of one person, as the service sees it where nobody says. */
export const isMatch = (alike) => alike !== null && service.matchThreshold !== null && alike >= service.matchThreshold;

/**
 * Return the card of a face.
 * @param {object} face
 * @param {object} how
 * @param {object|null} how.chosen The face that the others are compared with.
 * @param {boolean} how.isOfMany Whether faces of several pictures are listed: then the card has its picture's name.
 * @param {(face: object) => void} how.onChoose
 * @param {(face: object|null) => void} how.onHover
 * @param {(face: object) => void} how.onShow Somebody wants to see the picture.
 */
export function faceCard(face, { chosen, isOfMany, onChoose, onHover, onShow }) {
  const isChosen = face === chosen;
  const alike = chosen && !isChosen ? likeness(chosen, face) : null;
  const button = el(
    "button",
    {
      type: "button", class: `face${isMatch(alike) ? " is-match" : ""}`, "aria-pressed": String(isChosen),
      onclick: () => onChoose(face), onpointerenter: () => onHover(face), onpointerleave: () => onHover(null),
      onfocus: () => onHover(face), onblur: () => onHover(null),
    },
    face.crop ? el("img", { src: face.crop, alt: "", width: "112", height: "112" }) : el("span", { class: "no-crop" }),
    el("span", { class: "face-top" }, el("b", { title: face.who?.name }, face.who?.name ?? `Face ${face.number}`), el("span", { class: "num" }, face.score.toFixed(2))),
    face.who && el("span", { class: "small quiet" }, `known, alike ${face.who.similarity.toFixed(2)}`),
    ...attributesOf(face.raw).map((text) => el("span", { class: "small quiet" }, text)),
    isChosen && el("span", { class: "small quiet" }, "chosen"),
    alike !== null && likenessBar(alike),
  );
  const place = isOfMany && el("button", { type: "button", class: "quiet-button of", "aria-label": `Show ${face.entry.name}`, onclick: () => onShow(face) }, fileName(face.entry.name));
  const item = el("li", {}, button, place);
  item.face = face;
  return item;
}

function likenessBar(alike) {
  const fill = el("span", { class: "likeness-fill" });
  fill.style.width = `${Math.max(0, Math.min(1, alike)) * 100}%`;
  return el("span", { class: "likeness" }, el("span", { class: "small" }, ...likenessWords(alike)), el("span", { class: "likeness-bar" }, fill));
}

const likenessWords = (alike) => [isMatch(alike) ? "match " : "alike ", el("b", { class: "num" }, alike.toFixed(2))];

/** Return the attributes in words; those that are unknown are left out. */
function attributesOf(raw) {
  const words = [];
  const gender = raw.gender === 0 ? "woman" : raw.gender === 1 ? "man" : null;
  const age = typeof raw.age === "number" ? `about ${Math.round(raw.age)}` : null;
  if (gender || age) words.push([gender, age].filter(Boolean).join(", "));
  if (typeof raw.mask === "boolean") words.push(raw.mask ? "masked" : "no mask");
  if (typeof raw.live === "number") words.push(`${raw.is_live ? "live" : "not live"} ${raw.live.toFixed(2)}`);
  for (const [name, told] of Object.entries(raw.attributes ?? {})) {
    const values = told ? (service.shown[name] ?? []).map((key) => told[key]) : [];
    if (values.length) words.push(`${name}: ${values.map(inWords).join(", ")}`);
  }
  if (raw.quality) words.push(`quality ${raw.quality.score.toFixed(2)}`);
  return words;
}

const inWords = (value) => (typeof value === "number" ? String(Number(value.toFixed(2))) : String(value));

/** Return what the quality of a face is made of, in one line; empty when it was not measured. */
export function qualityOf(raw) {
  if (!raw.quality) return "";
  const { sharpness, brightness, size, pose } = raw.quality;
  const angles = ["yaw", "pitch", "roll"].map((name) => `${name} ${Math.round(pose[name]) || 0}°`);
  return `Sharpness ${Math.round(sharpness)} · brightness ${brightness.toFixed(2)} · ${Math.round(size)} px · ${angles.join(", ")}`;
}

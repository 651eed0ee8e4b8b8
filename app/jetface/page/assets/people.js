// People: who is enrolled, more of them, and who the faces of the Find page are.

import { ask, askPatiently, Fault } from "./api.js";
import { announce, byId, counted, el, showFault } from "./dom.js";
import { filesOf, hasFiles, nameOf } from "./files.js";

const AT_ONCE = 8;
const MOST_SHOWN = 200;
const MOST_PENDING = 100;

/** Pictures that wait for a name. */
let pending = [];
let collections = [];
let isOn = false;

const chosenName = () => byId("collection").value || "people";
const pathOf = (...parts) => ["v1/collections", ...parts.map(encodeURIComponent)].join("/");

/** Tell who faces are, a name or null for each; nothing where nobody is enrolled. */
export async function whoAre(vectors, signal) {
  const collection = collections.find(({ name }) => name === chosenName());
  if (!isOn || !collection?.faces || !vectors.length) return null;
  try {
    const { answer } = await askPatiently(`${pathOf(collection.name)}/identify`, { json: { vectors }, signal });
    return answer.vectors.map(({ person, similarity }) => (person ? { name: person.name, similarity } : null));
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    if (!(cause instanceof Fault)) throw cause;
    // Faces without names are worth more than none; the reason is told where people are.
    showFault(byId("people-errors"), cause.message);
    return null;
  }
}

/** Put pictures aside until somebody says whose they are. */
export function addToPeople(files) {
  pending.push(...files.slice(0, MOST_PENDING - pending.length));
  showPending();
  byId("person-name").focus();
}

function showPending() {
  byId("people-pending").textContent = pending.length ? `${counted(pending.length, "picture")}: ${pending.map(nameOf).join(", ")}` : "";
  byId("people-clear").hidden = !pending.length;
  byId("enrol").disabled = !pending.length;
}

async function enrol(event) {
  event.preventDefault();
  const name = byId("person-name").value.trim();
  if (!name || !pending.length) return;
  const files = pending;
  byId("people-errors").replaceChildren();
  byId("enrol").disabled = true;
  try {
    await makeCollection();
    let stored = 0;
    for (let start = 0; start < files.length; start += AT_ONCE) {
      stored += await enrolSome(name, files.slice(start, start + AT_ONCE));
    }
    pending = [];
    if (stored) byId("person-name").value = "";
    announce(`${name}: ${counted(stored, "face")} enrolled.`);
  } catch (cause) {
    if (!(cause instanceof Fault)) throw cause;
    showFault(byId("people-errors"), cause.message);
  }
  showPending();
  await showPeople();
  document.dispatchEvent(new Event("peoplechanged"));
}

async function enrolSome(name, files) {
  const form = new FormData();
  for (const file of files) form.append("file", file, nameOf(file));
  form.append("name", name);
  form.append("largest", String(byId("largest").checked));
  form.append("skip_duplicates", "true");
  // A slash cannot be in an id; the name keeps it.
  const id = name.replaceAll("/", "-");
  const { answer } = await askPatiently(`${pathOf(chosenName(), "persons", id)}/faces`, { form });
  answer.pictures.forEach((picture, index) => {
    const place = byId("people-errors");
    if (picture.error) showFault(place, picture.error.message, nameOf(files[index]));
    else if (picture.status === "skipped") showFault(place, `Not stored again: it is enrolled already, as ${picture.nearest.person}.`, nameOf(files[index]));
    else if (picture.nearest && picture.nearest.person !== id) showFault(place, `Enrolled, but ${picture.nearest.person} looks the same (${picture.nearest.similarity.toFixed(2)}).`, nameOf(files[index]));
  });
  return answer.pictures.filter(({ status }) => status === "ok").length;
}

async function makeCollection() {
  if (!collections.some(({ name }) => name === chosenName())) await askPatiently("v1/collections", { json: { name: chosenName() } });
}

/** Show who is enrolled, or why that cannot be told. */
async function showPeople() {
  try {
    await listPeople();
  } catch (cause) {
    if (!(cause instanceof Fault)) throw cause;
    showFault(byId("people-errors"), cause.message);
  }
}

async function listPeople() {
  const { answer } = await askPatiently("v1/collections");
  collections = answer.collections;
  const select = byId("collection");
  const before = select.value;
  const names = [...new Set(["people", ...collections.map(({ name }) => name)])];
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  select.value = names.includes(before) ? before : collections[0]?.name ?? "people";
  const collection = collections.find(({ name }) => name === select.value);
  const persons = collection ? (await askPatiently(`${pathOf(collection.name)}/persons?limit=${MOST_SHOWN}`)).answer : { persons: [], next: null };
  byId("people-title").textContent = collection ? `${counted(collection.persons, "person").replace("persons", "people")}, ${counted(collection.faces, "face")}` : "Nobody yet";
  byId("people-more").hidden = !persons.next;
  thumbs.disconnect();
  byId("people-list").replaceChildren(...persons.persons.map(personCard));
}

/** Asks for a person's face once its card comes into sight: the crops of 200 people are 400 requests. */
const thumbs = new IntersectionObserver((seen) => {
  for (const { target, isIntersecting } of seen) {
    if (!isIntersecting) continue;
    thumbs.unobserve(target);
    showThumb(target);
  }
});

function personCard(person) {
  const picture = el("span", { class: "no-crop" });
  Object.assign(picture, { path: pathOf(chosenName()), person });
  thumbs.observe(picture);
  const remove = el("button", { type: "button", class: "quiet-button", "aria-label": `Delete ${person.name}`, onclick: () => confirmDelete(person, remove) }, "Delete");
  return el("li", { class: "card person" }, picture, el("b", { title: person.name }, person.name), el("span", { class: "small quiet" }, counted(person.faces, "face")), remove);
}

async function showThumb(place) {
  try {
    const { answer } = await askPatiently(`${place.path}/persons/${encodeURIComponent(place.person.id)}/faces?limit=1`);
    const [face] = answer.faces;
    if (!face?.has_crop) return;
    const { answer: blob } = await askPatiently(`${place.path}/faces/${encodeURIComponent(face.id)}/crop`, { as: "blob" });
    const address = URL.createObjectURL(blob);
    place.replaceWith(el("img", { src: address, alt: "", width: "112", height: "112", onload: () => URL.revokeObjectURL(address) }));
  } catch (cause) {
    // Somebody else may have deleted the person meanwhile; a card without its picture says enough.
    if (!(cause instanceof Fault)) throw cause;
  }
}

/** The second press deletes: what is deleted is gone for good. */
async function confirmDelete(person, button) {
  if (button.textContent === "Delete") {
    const name = button.getAttribute("aria-label");
    button.textContent = "Delete for good?";
    button.setAttribute("aria-label", `${name} for good?`);
    setTimeout(() => {
      button.textContent = "Delete";
      button.setAttribute("aria-label", name);
    }, 4000);
    return;
  }
  try {
    await ask(pathOf(chosenName(), "persons", person.id), { method: "DELETE" });
    announce(`${person.name} is deleted.`);
    await showPeople();
    document.dispatchEvent(new Event("peoplechanged"));
    byId("people").focus({ preventScroll: true });
  } catch (cause) {
    if (!(cause instanceof Fault)) throw cause;
    showFault(byId("people-errors"), cause.message);
  }
}

/** Connect the controls; the tab is there once the service says that it has a gallery. */
export function startPeople() {
  byId("enrol-form").addEventListener("submit", enrol);
  byId("people-drop").addEventListener("drop", async (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    event.stopPropagation();
    addToPeople(await filesOf(event.dataTransfer));
  });
  byId("people-clear").addEventListener("click", () => {
    pending = [];
    showPending();
    byId("people-drop").querySelector("button").focus();
  });
  byId("collection").addEventListener("change", async () => {
    await showPeople();
    document.dispatchEvent(new Event("peoplechanged"));
  });
  document.addEventListener("defaults", async ({ detail }) => {
    if (isOn || !detail.gallery) return;
    isOn = true;
    await showPeople();
    document.dispatchEvent(new Event("peoplechanged"));
  });
  showPending();
}

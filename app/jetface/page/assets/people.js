// People: who is enrolled, more of them, and who the faces of the Find page are.

import { ask, Fault } from "./api.js";
import { announce, byId, counted, el, filesOf, showFault } from "./dom.js";

const AT_ONCE = 8;
const MOST_SHOWN = 200;

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
    const { answer } = await ask(`${pathOf(collection.name)}/identify`, { json: { vectors }, signal });
    return answer.vectors.map(({ person, similarity }) => (person ? { name: person.name, similarity } : null));
  } catch (cause) {
    if (cause.name === "AbortError") throw cause;
    if (!(cause instanceof Fault)) throw cause;
    // Faces without names are worth more than none; the reason is told where people are.
    showFaultOnce(cause.message);
    return null;
  }
}

function showFaultOnce(text) {
  const place = byId("people-errors");
  if (![...place.children].some((child) => child.textContent.includes(text))) showFault(place, text);
}

/** Put pictures aside until somebody says whose they are. */
export function addToPeople(files) {
  pending.push(...files);
  showPending();
  byId("person-name").focus();
}

function showPending() {
  byId("people-pending").textContent = pending.length ? `${counted(pending.length, "picture")}: ${pending.map((file) => file.name || "pasted picture").join(", ")}` : "";
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
    byId("person-name").value = "";
    announce(`${name}: ${counted(stored, "face")} enrolled.`);
    document.dispatchEvent(new Event("peoplechanged"));
  } catch (cause) {
    if (!(cause instanceof Fault)) throw cause;
    showFault(byId("people-errors"), cause.message);
  }
  showPending();
  await showPeople();
}

async function enrolSome(name, files) {
  const form = new FormData();
  for (const file of files) form.append("file", file, file.name || "pasted picture");
  form.append("name", name);
  form.append("largest", String(byId("largest").checked));
  // A slash cannot be in an id; the name keeps it.
  const id = name.replaceAll("/", "-");
  const { answer } = await ask(`${pathOf(chosenName(), "persons", id)}/faces`, { form });
  answer.pictures.forEach((picture, index) => {
    const file = files[index].name || "pasted picture";
    if (picture.error) showFault(byId("people-errors"), `${file}: ${picture.error.message}`);
    else if (picture.nearest && picture.nearest.person !== id) showFault(byId("people-errors"), `${file}: enrolled, but ${picture.nearest.person} looks the same (${picture.nearest.similarity.toFixed(2)}).`);
  });
  return answer.pictures.filter(({ status }) => status === "ok").length;
}

async function makeCollection() {
  if (!collections.some(({ name }) => name === chosenName())) await ask("v1/collections", { json: { name: chosenName() } });
}

/** Show who is enrolled. */
async function showPeople() {
  const { answer } = await ask("v1/collections");
  collections = answer.collections;
  const select = byId("collection");
  const before = select.value;
  const names = [...new Set(["people", ...collections.map(({ name }) => name)])];
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  select.value = names.includes(before) ? before : collections[0]?.name ?? "people";
  const collection = collections.find(({ name }) => name === select.value);
  const persons = collection ? (await ask(`${pathOf(collection.name)}/persons?limit=${MOST_SHOWN}`)).answer : { persons: [], next: null };
  byId("people-title").textContent = collection ? `${counted(collection.persons, "person").replace("persons", "people")}, ${counted(collection.faces, "face")}` : "Nobody yet";
  byId("people-more").hidden = !persons.next;
  byId("people-list").replaceChildren(...persons.persons.map(personCard));
}

function personCard(person) {
  const picture = el("span", { class: "no-crop" });
  showThumb(person, picture);
  const remove = el("button", { type: "button", class: "quiet-button", "aria-label": `Delete ${person.name}`, onclick: () => confirmDelete(person, remove) }, "Delete");
  return el("li", { class: "card person" }, picture, el("b", {}, person.name), el("span", { class: "small quiet" }, counted(person.faces, "face")), remove);
}

async function showThumb(person, place) {
  const base = pathOf(chosenName());
  const { answer } = await ask(`${base}/persons/${encodeURIComponent(person.id)}/faces?limit=1`);
  const [face] = answer.faces;
  if (!face?.has_crop) return;
  const { answer: blob } = await ask(`${base}/faces/${encodeURIComponent(face.id)}/crop`, { as: "blob" });
  const address = URL.createObjectURL(blob);
  place.replaceWith(el("img", { src: address, alt: "", width: "112", height: "112", onload: () => URL.revokeObjectURL(address) }));
}

/** The second press deletes: what is deleted is gone for good. */
async function confirmDelete(person, button) {
  if (button.textContent === "Delete") {
    button.textContent = "Delete for good?";
    setTimeout(() => { button.textContent = "Delete"; }, 4000);
    return;
  }
  try {
    await ask(pathOf(chosenName(), "persons", person.id), { method: "DELETE" });
    announce(`${person.name} is deleted.`);
    document.dispatchEvent(new Event("peoplechanged"));
    await showPeople();
  } catch (cause) {
    if (!(cause instanceof Fault)) throw cause;
    showFault(byId("people-errors"), cause.message);
  }
}

/** Connect the controls; the tab is there once the service says that it has a gallery. */
export function startPeople() {
  byId("enrol-form").addEventListener("submit", enrol);
  const input = byId("people-files");
  byId("people-choose").addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    addToPeople([...input.files]);
    input.value = "";
  });
  byId("people-drop").addEventListener("drop", (event) => {
    const files = filesOf(event.dataTransfer);
    if (!files.length) return;
    event.preventDefault();
    event.stopPropagation();
    addToPeople(files);
  });
  byId("people-clear").addEventListener("click", () => {
    pending = [];
    showPending();
  });
  byId("collection").addEventListener("change", async () => {
    await showPeople();
    document.dispatchEvent(new Event("peoplechanged"));
  });
  document.addEventListener("defaults", async ({ detail }) => {
    if (isOn || !detail.gallery) return;
    isOn = true;
    byId("tab-people").hidden = false;
    await showPeople();
    document.dispatchEvent(new Event("peoplechanged"));
  });
  showPending();
}

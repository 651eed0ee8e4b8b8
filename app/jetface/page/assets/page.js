// Where the page begins: tabs, drop, paste, camera, copy.

import { takePicture } from "./camera.js";
import { addToCompare, startCompare, texts as compareTexts } from "./compare.js";
import { byId, copy } from "./dom.js";
import { filesOf, hasFiles, picturesOf } from "./files.js";
import { addToFind, lookAtFrame, startFind, texts as findTexts } from "./find.js";
import { addToPeople, startPeople } from "./people.js";
import { addToPlates, startPlates, texts as plateTexts } from "./plates.js";
import { refresh, watchService } from "./service.js";

/** Every tab, who takes its pictures, and whether the service that `/info` tells of has a use for it. */
const TABS = {
  find: { take: addToFind, look: lookAtFrame, drop: "Drop to look for faces", isOn: ({ models }) => models.det_name !== null },
  compare: { take: addToCompare, isOn: ({ models }) => models.det_name !== null && models.rec_name !== null },
  plates: { take: addToPlates, drop: "Drop to read plates", isOn: ({ plates }) => plates },
  people: { take: addToPeople, isOn: ({ gallery }) => gallery },
};
const NAMES = Object.keys(TABS);
const activeTab = () => NAMES.find((name) => !byId(name).hidden);
const asked = location.hash.slice(1);

function openTab(name, { focus = false } = {}) {
  for (const tab of NAMES) {
    const isOpen = tab === name;
    byId(tab).hidden = !isOpen;
    byId(`tab-${tab}`).setAttribute("aria-selected", String(isOpen));
    byId(`tab-${tab}`).tabIndex = isOpen ? 0 : -1;
  }
  history.replaceState(null, "", name === "find" ? location.pathname : `#${name}`);
  if (focus) byId(`tab-${name}`).focus();
}

/** Take pictures in, wherever they came from, for the tab that is open. */
async function take(files) {
  if (!files.length) return;
  await TABS[activeTab()].take(files);
  refresh();
}

function startTabs() {
  for (const name of NAMES) {
    const tab = byId(`tab-${name}`);
    tab.addEventListener("click", () => openTab(name));
    tab.addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key] ?? 0;
      const shown = NAMES.filter((each) => !byId(`tab-${each}`).hidden);
      if (step) openTab(shown[(shown.indexOf(name) + step + shown.length) % shown.length], { focus: true });
    });
  }
  if (asked === "compare") openTab(asked);
  document.addEventListener("defaults", ({ detail }) => {
    for (const name of NAMES) byId(`tab-${name}`).hidden = !TABS[name].isOn(detail);
    const shown = NAMES.filter((name) => !byId(`tab-${name}`).hidden);
    if (activeTab() === "find" && shown.includes(asked)) openTab(asked);
    else if (!shown.includes(activeTab())) openTab(shown[0]);
  });
}

function startDrop() {
  const veil = byId("veil");
  const hide = () => { veil.hidden = true; };
  document.addEventListener("dragover", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    // Without this a browser leaves the page and opens the file.
    event.preventDefault();
    const { drop } = TABS[activeTab()];
    veil.hidden = !drop;
    veil.firstElementChild.textContent = drop ?? "";
  });
  document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) hide(); });
  document.addEventListener("drop", async (event) => {
    hide();
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    take(await filesOf(event.dataTransfer));
  });
  document.addEventListener("paste", async (event) => {
    if (!hasFiles(event.clipboardData)) return;
    event.preventDefault();
    take(await filesOf(event.clipboardData));
  });
}

function startButtons() {
  for (const panel of NAMES.map(byId)) {
    startInput(panel, "choose", "files", (files) => [...files]);
    startInput(panel, "choose-folder", "folder", picturesOf);
    panel.querySelector('[data-part="camera"]')?.addEventListener("click", async () => {
      const picture = await takePicture(TABS[activeTab()].look);
      if (picture) await take([picture]);
    });
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.addEventListener("click", () => {
      const what = button.dataset.copy;
      copy({ ...findTexts(), ...compareTexts(), ...plateTexts() }[what], byId(what), button);
    });
  }
}

/** Let a button open the browser's own dialog for files. */
function startInput(panel, buttonName, inputName, read) {
  const button = panel.querySelector(`[data-part="${buttonName}"]`);
  const input = panel.querySelector(`[data-part="${inputName}"]`);
  if (!button || !input) return;
  // Some browsers on phones cannot choose folders.
  if (inputName === "folder") button.hidden = !("webkitdirectory" in input);
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", () => {
    take(read(input.files));
    input.value = ""; // so that choosing the same file again is a change
  });
}

startTabs();
startDrop();
startButtons();
startFind();
startCompare();
startPlates();
startPeople();
watchService();

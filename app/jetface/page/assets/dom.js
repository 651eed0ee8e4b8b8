// The few lines this page needs of what a framework would bring.

/** Return the element of that id. */
export const byId = (id) => document.getElementById(id);

/**
 * Make an element. Text is always text: nothing here, and nothing on this page, parses HTML.
 * @param {string} tag
 * @param {Object<string, *>} attributes `onclick` and the like are listeners; null and false leave an attribute out.
 * @param {...(Node|string|null|false)} children
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === false || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== false && child !== undefined));
  return element;
}

/** Say something to people who hear the page. */
export function announce(text) {
  const live = byId("live");
  live.textContent = "";
  // A reader only notices a change; a frame later it is one, even of the same words.
  requestAnimationFrame(() => { live.textContent = text; });
}

/** Show why something went wrong, until it is dismissed. */
export function showFault(place, text) {
  const fault = el("div", { class: "notice fault", role: "alert" }, el("p", {}, text));
  const dismiss = el("button", { type: "button", class: "quiet-button", onclick: () => fault.remove() }, "Dismiss");
  fault.append(dismiss);
  place.append(fault);
  // Pictures can be dropped anywhere on the page, also where its top is out of sight.
  fault.scrollIntoView({ block: "nearest" });
}

/** Return `1 face`, `6 faces`. */
export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/** Return the files of a drop or a paste that may be pictures: what is not, the service says best. */
export const filesOf = (transfer) => [...(transfer?.files ?? [])];

/** Put `text` on the clipboard; where the browser keeps it from pages (plain http), select it for the person. */
export async function copy(text, pre, button) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    announce("Copied");
  } catch {
    getSelection().selectAllChildren(pre);
    button.textContent = "Selected";
    announce("Selected, ready to copy");
  }
  setTimeout(() => { button.textContent = label; }, 1600);
}

// The camera, in a dialog.

import { Fault } from "./api.js";
import { byId, counted } from "./dom.js";
import { draw } from "./picture.js";

/** No more than five frames a second are asked about. */
const FRAME_PAUSE_MS = 200;

/**
 * Let the person take a picture.
 * @param {((frame: File, signal: AbortSignal) => Promise<object[]>)|null} [look] Finds what `draw` takes on a frame,
 *   where the tab can do so while the camera runs.
 * @returns {Promise<File|null>} Null when none was taken.
 */
export async function takePicture(look = null) {
  const dialog = byId("camera");
  const video = byId("camera-video");
  const take = byId("camera-take");
  const fault = byId("camera-fault");
  const live = byId("camera-live");
  fault.hidden = true;
  video.hidden = false;
  live.checked = false;
  live.disabled = true;
  live.parentElement.hidden = !look;
  live.onchange = () => lookOn(video, look);
  take.disabled = true;
  take.hidden = false;
  dialog.showModal();
  let stream = null;
  let isOpen = true;
  const ended = new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(null), { once: true });
    take.onclick = () => resolve(snapshot(video));
    byId("camera-close").onclick = () => dialog.close();
  });
  try {
    stream = await openStream();
    if (!dialog.open) isOpen = false;
    video.srcObject = stream;
    await video.play();
    take.disabled = live.disabled = false;
    take.focus();
  } catch (cause) {
    video.hidden = true;
    take.hidden = true;
    live.parentElement.hidden = true;
    tell(inWords(cause));
  }
  const picture = isOpen ? await ended : null;
  live.checked = false;
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  if (dialog.open) dialog.close();
  return picture;
}

/** Say what is wrong: an alert is heard when it appears, not when its text does. */
function tell(words) {
  byId("camera-fault").textContent = words;
  byId("camera-fault").hidden = false;
}

/** Look at one frame after the other, and show what is seen on them, until nobody wants that any more. */
async function lookOn(video, look) {
  const live = byId("camera-live");
  const overlay = byId("camera-marks");
  const seen = byId("camera-seen");
  const wanted = new AbortController();
  live.onchange = () => wanted.abort();
  byId("camera").addEventListener("close", () => wanted.abort(), { once: true });
  overlay.hidden = false;
  try {
    while (live.checked) {
      const { videoWidth: width, videoHeight: height } = video;
      const marks = await look(await snapshot(video), wanted.signal);
      // Turned as in a mirror, as the picture under it is.
      const turned = marks.map(({ box: [x1, y1, x2, y2], label }) => ({ box: [width - x2, y1, width - x1, y2], label }));
      draw(overlay, { width, height }, turned);
      const words = marks.map(({ who }) => who?.name).filter(Boolean).join(", ") || counted(marks.length, "face");
      if (seen.textContent !== words) seen.textContent = words;
      await new Promise((resolve) => { setTimeout(resolve, FRAME_PAUSE_MS); });
    }
  } catch (cause) {
    live.checked = false;
    if (cause instanceof Fault) tell(cause.message);
    else if (cause.name !== "AbortError") throw cause;
  } finally {
    overlay.hidden = true;
    seen.textContent = "";
    live.onchange = () => lookOn(video, look);
  }
}

async function openStream() {
  // Browsers hide the camera from pages that came over plain http, except from this very machine.
  if (!navigator.mediaDevices?.getUserMedia) throw new DOMException("", "InsecureContext");
  return navigator.mediaDevices.getUserMedia({ video: { facingMode: "user", width: { ideal: 1280 } }, audio: false });
}

function inWords(cause) {
  switch (cause.name) {
    case "InsecureContext":
      return "Browsers lend the camera only to pages opened over https or on localhost. Choose a picture instead.";
    case "NotAllowedError":
      return "The browser was not allowed to use the camera. Allow it beside the address, then try again.";
    case "NotFoundError":
      return "No camera was found on this device.";
    case "NotReadableError":
      return "The camera is in use by another program.";
    default:
      return "The camera did not start.";
  }
}

async function snapshot(video) {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
  return new File([blob], `camera-${new Date().toISOString().slice(11, 19).replaceAll(":", "")}.jpg`, { type: "image/jpeg" });
}

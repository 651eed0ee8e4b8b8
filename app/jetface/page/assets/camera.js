// The camera, in a dialog.

import { byId } from "./dom.js";

/**
 * Let the person take a picture.
 * @returns {Promise<File|null>} Null when none was taken.
 */
export async function takePicture() {
  const dialog = byId("camera");
  const video = byId("camera-video");
  const take = byId("camera-take");
  const fault = byId("camera-fault");
  fault.hidden = true;
  video.hidden = false;
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
    take.disabled = false;
    take.focus();
  } catch (cause) {
    video.hidden = true;
    take.hidden = true;
    fault.textContent = inWords(cause);
    // An alert is heard when it appears, not when its text does.
    fault.hidden = false;
  }
  const picture = isOpen ? await ended : null;
  stream?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  if (dialog.open) dialog.close();
  return picture;
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

// The server's API: JSON and streams of events, the key, and errors as one line.

const KEY = "sfumato-key";

export class ApiError extends Error {}

export const getJson = async (path) => (await call(path)).json();
export const postJson = async (path, body, signal) => (await call(path, body, signal)).json();

// The chunks of a streamed answer, until [DONE].
export async function* postStream(path, body, signal) {
  const response = await call(path, { ...body, stream: true }, signal);
  for await (const data of events(response.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(told(chunk.error));
    yield chunk;
  }
  throw new ApiError("the server broke off its answer");
}

async function call(path, body, signal) {
  let response = await request(path, body, signal);
  for (let refused = Boolean(sessionStorage.getItem(KEY)); response.status === 401; refused = true) {
    if (!(await askForKey(refused))) break;
    response = await request(path, body, signal);
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  throw new ApiError(answer?.error ? told(answer.error) : `the server answered ${response.status} to ${path}`);
}

async function request(path, body, signal) {
  const headers = {};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  try {
    return await fetch(path, { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("the server cannot be reached; is it still running?");
  }
}

function told({ message, param }) {
  return param && !message.includes(param) ? `${param}: ${message}` : message;
}

let asking = null;

// Asks once, however many requests wait for the answer.
function askForKey(refused) {
  asking ??= new Promise((resolve) => {
    const dialog = document.getElementById("key");
    const input = dialog.querySelector("input");
    input.value = "";
    dialog.querySelector(".alert").textContent = refused ? "The key was refused." : "";
    dialog.returnValue = "cancel";
    dialog.addEventListener("close", () => {
      const given = dialog.returnValue === "use" && input.value.trim();
      if (given) sessionStorage.setItem(KEY, given);
      asking = null;
      resolve(Boolean(given));
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

function lost(error) {
  if (error.name === "AbortError") throw error;
  throw new ApiError("the connection to the server was lost");
}

// The data of server-sent events, as they arrive.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { value, done } = await reader.read().catch(lost);
      if (done) return;
      buffer += value.replaceAll("\r", "");
      const parts = buffer.split("\n\n");
      buffer = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").filter((line) => line.startsWith("data:"));
        if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

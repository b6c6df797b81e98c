/* Socket.IO clients that a test opens and asks, in Node and in a browser; `io` is there already. */
"use strict";

var clients = new Map(); // name -> {socket, events}

function openClient(name, url, options) {
  const events = []; // [name, ...arguments], in order
  const socket = io(url, { forceNew: true, ...options });
  socket.on("connect", () => events.push(["connect", socket.id]));
  socket.on("connect_error", (error) => events.push(["connect_error", error.message, error.data ?? null]));
  socket.on("disconnect", (reason) => events.push(["disconnect", reason]));
  socket.io.engine.on("upgrade", (transport) => events.push(["upgrade", transport.name]));
  socket.onAny((...event) => events.push(event));
  clients.set(name, { socket, events });
}

function eventsOf(name, after) {
  return clients.get(name).events.slice(after);
}

function emit(name, ...event) {
  clients.get(name).socket.emit(...event);
}

function acknowledged(name, ...event) {
  return new Promise((resolve) => clients.get(name).socket.emit(...event, (...answer) => resolve(answer)));
}

function closeClient(name) {
  clients.get(name).socket.disconnect();
}

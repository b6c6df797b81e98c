// ws in Node: one send per client per message, as its README's "Server broadcast". Compression is off by default.
// NODE_PATH names where the package is.
const { WebSocket, WebSocketServer } = require("ws");

const topics = new Map();
const server = new WebSocketServer({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
  console.log(`ready ws://127.0.0.1:${server.address().port}/`);
});
server.on("connection", (socket) => {
  socket.on("error", console.error);
  socket.on("close", () => topics.forEach((members) => members.delete(socket)));
  socket.on("message", (data) => {
    const message = data.toString();
    const space = message.indexOf(" ");
    const [first, rest] = [message.slice(0, space), message.slice(space + 1)];
    if (first === "SUB") {
      topics.set(rest, (topics.get(rest) ?? new Set()).add(socket));
      return;
    }
    for (const member of topics.get(first) ?? []) {
      if (member.readyState === WebSocket.OPEN) member.send(rest);
    }
  });
});

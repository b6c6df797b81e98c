// socket.io in Node: a room per topic. NODE_PATH names where the package is.
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
const io = new Server(http, { cors: { origin: "*" }, perMessageDeflate: false });
io.on("connection", (socket) => {
  socket.on("subscribe", (topic) => socket.join(topic));
  socket.on("publish", (topic, data) => io.to(topic).emit("event", data));
});
http.listen({ host: "127.0.0.1", port: 0, backlog: 4096 }, () => {
  console.log(`ready ws://127.0.0.1:${http.address().port}/`);
});

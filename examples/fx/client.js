#!/usr/bin/env node
/* Example client of the FX server: subscribes to some pairs and prints what comes.
 *
 *     npm install socket.io-client
 *     node client.js [URL] [PAIR…]
 */
"use strict";

const { io } = require("socket.io-client");

const url = process.argv[2] ?? "http://localhost:5001";
const pairs = process.argv.length > 3 ? process.argv.slice(3) : ["EUR_USD", "GBP_USD", "USD_JPY"];
const line = "=".repeat(60);

console.log(line);
console.log("   FX Data Pipeline WebSocket Client Example");
console.log(line);
console.log(`\n🔌 Connecting to ${url}...`);

// Polling first, then WebSocket; after a loss it comes back by itself, with growing pauses.
const socket = io(url);
let initialized = false;

socket.on("connect", () => console.log("✅ Connected to WebSocket server"));

// The first event of each connection. Subscriptions end with a connection, so this is the place to make them.
socket.on("connection_established", (server) => {
  console.log("\n📡 Connection Established:");
  console.log(`   Client ID: ${server.client_id}`);
  console.log(`   Tracked Pairs: ${server.pair_count}`);
  console.log(`   Active Clients: ${server.active_clients}/${server.max_clients}`);
  console.log(`\n📡 Subscribing to ${pairs.length} pairs...`);
  socket.emit("subscribe", { pairs });
});

socket.on("subscription_confirmed", (answer) => {
  console.log(`\n✅ Subscription Confirmed: ${answer.pair_count} pairs (Total: ${answer.total})`);
  console.log(`   Pairs: ${answer.pairs.join(", ")}`);
  if (!initialized) {
    initialized = true;
    console.log("\n✅ Client initialized. Listening for events...");
  }
  for (const instrument of answer.pairs) socket.emit("request_price", { instrument }); // the last one, if there is one
});

socket.on("subscription_error", (error) => {
  console.error(`\n❌ ${error.message}`);
  process.exitCode = 1;
});

socket.on("price_response", (price) => console.log(`💾 ${text(price)}`));
socket.on("price_update", (price) => console.log(`💱 ${text(price)}`));
socket.on("volatility_alert", (alert) => console.log("⚡ Volatility:", JSON.stringify(alert)));
socket.on("correlation_alert", (alert) => console.log("🔗 Correlation:", JSON.stringify(alert)));
socket.on("data_ready", (news) => console.log("📦 Data ready:", JSON.stringify(news)));

// The server has refused us (full, for instance: error.message says so), or cannot be reached.
socket.on("connect_error", (error) => {
  console.error(`❌ ${error.message}`);
  if (!socket.active) process.exitCode = 1; // a refusal is final; after anything else the next attempt is on its way
});

socket.on("disconnect", (reason) => console.log(`🔴 Disconnected: ${reason}`));

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => socket.disconnect()); // nothing is left to do then, and the process ends
}

function text({ instrument, price, time }) {
  return `${instrument}: bid ${price.bid}, ask ${price.ask}, mid ${price.mid} at ${time}`;
}

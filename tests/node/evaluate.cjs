/* Evaluates what a test asks: a line in is {"id", "script"}, a line out {"id", "value"} or {"id", "error"}. */
"use strict";

const fs = require("node:fs");
const path = require("node:path");
const readline = require("node:readline");
const vm = require("node:vm");

globalThis.io = require(process.argv[2]).io; // which version of the client
globalThis.require = require;
globalThis.load = (file) => import(file); // a module; a script that is evaluated cannot import
vm.runInThisContext(fs.readFileSync(path.join(__dirname, "clients.js"), "utf8"));

readline.createInterface({ input: process.stdin }).on("line", async (line) => {
  const { id, script } = JSON.parse(line);
  try {
    answer({ id, value: (await vm.runInThisContext(script)) ?? null });
  } catch (error) {
    answer({ id, error: String(error.stack ?? error) });
  }
}).on("close", () => process.exit(0)); // the test has gone

function answer(message) {
  process.stdout.write(JSON.stringify(message) + "\n");
}

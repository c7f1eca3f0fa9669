// Reads files of variables as four tools do. Input: a JSON array of file contents; output: an array of
// {dotenv, node, vite, next}, each an object of the variables named in the file's lines.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import util from "node:util";
import nextEnv from "@next/env";
import dotenv from "dotenv";
import { loadEnv } from "vite";

const NAMES = ["X", "Y", "Z"];
const directory = fs.mkdtempSync(path.join(os.tmpdir(), "env-"));
const silent = { info() {}, error() {} };

function forget() {
  for (const name of NAMES) delete process.env[name];
}

function read(text) {
  fs.writeFileSync(path.join(directory, ".env.local"), text);
  forget();
  const vite = { ...loadEnv("development", directory, "") };
  forget();
  const next = { ...nextEnv.loadEnvConfig(directory, true, silent, true).combinedEnv };
  nextEnv.resetEnv();
  forget();
  const found = { dotenv: dotenv.parse(text), node: util.parseEnv(text), vite, next };
  return Object.fromEntries(
    Object.entries(found).map(([tool, all]) => [tool, Object.fromEntries(NAMES.filter((n) => n in all).map((n) => [n, all[n]]))]),
  );
}

const files = JSON.parse(fs.readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(files.map(read)));
fs.rmSync(directory, { recursive: true });

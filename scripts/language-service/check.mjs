// Checks every workflow and action of the repository by GitHub's own language service: syntax,
// expressions and contexts, and that `$/` references pass inputs which exist.
//   node check.mjs [ROOT]
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { register } from "node:module";
import { join, resolve } from "node:path";

// The service imports its JSON files without saying that they are JSON, as only bundlers allow.
register(
  "data:text/javascript," +
    encodeURIComponent(`export async function load(url, context, next) {
      const json = url.endsWith(".json") ? { importAttributes: { type: "json" } } : {};
      return next(url, { ...context, ...json });
    }`),
);
const { LogLevel, registerLogger, setLogLevel, validate } = await import("@actions/languageservice");
const { TextDocument } = await import("vscode-languageserver-textdocument");

const root = resolve(process.argv[2] ?? ".");
let findings = 0;

function report(path, line, column, message) {
  findings += 1;
  console.log(`${path}:${line}:${column}: ${message}`);
  if (process.env.GITHUB_ACTIONS === "true") {
    const text = message.replaceAll("%", "%25").replaceAll("\r", "%0D").replaceAll("\n", "%0A");
    console.log(`::error file=${path},line=${line},col=${column}::${text}`);
  }
}

// An exception inside the service would otherwise look like a file without findings.
let current = "";
const ignore = () => {};
const fail = (message) => report(current, 1, 1, message);
registerLogger({ error: fail, warn: fail, info: ignore, log: ignore });
setLogLevel(LogLevel.Warn);

// What `$/` and `./` refer to stands in the same repository.
const fileProvider = {
  async getFileContent({ path, owner }) {
    if (owner !== undefined) throw new Error(`${owner} is another repository`);
    return { name: path, content: readFileSync(join(root, path), "utf8") };
  },
};

function documents() {
  const workflows = join(".github", "workflows");
  const actions = join(".github", "actions");
  const list = (folder) => (existsSync(join(root, folder)) ? readdirSync(join(root, folder)) : []);
  return [
    ...list(workflows).filter((name) => /\.ya?ml$/.test(name)).map((name) => join(workflows, name)),
    ...list(actions).map((name) => join(actions, name, "action.yml")),
  ].filter((path) => existsSync(join(root, path)));
}

const paths = documents().sort();
for (current of paths) {
  const text = readFileSync(join(root, current), "utf8");
  const document = TextDocument.create(`file:///${current}`, "yaml", 1, text);
  for (const { range, message } of await validate(document, { fileProvider })) {
    report(current, range.start.line + 1, range.start.character + 1, message);
  }
}
console.log(`${paths.length} files, ${findings} findings`);
process.exitCode = paths.length === 0 || findings > 0 ? 1 : 0;

// Reads an AsyncAPI document with the official parser, whose rules say more than its schema.
// node asyncapi.cjs FOLDER-WITH-node_modules DOCUMENT; status 1 for errors and warnings.
const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");

const [folder, document] = process.argv.slice(2);
const { Parser } = createRequire(`${folder}/`)("@asyncapi/parser");

new Parser().parse(readFileSync(document, "utf8")).then(({ document: parsed, diagnostics }) => {
  const faults = diagnostics.filter(({ severity }) => severity < 2); // 2: information
  for (const { code, path, message } of faults) console.log(`${path.join(".")}: ${message} (${code})`);
  if (parsed) console.log(`${parsed.info().title()}, AsyncAPI ${parsed.version()}: ${faults.length} faults`);
  process.exit(parsed && faults.length === 0 ? 0 : 1);
});
